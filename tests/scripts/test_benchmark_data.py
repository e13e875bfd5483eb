"""The benchmarks of loading, evaluation, epochs and several processes: what takes turns, and what the ratios are of."""

import json
import os
from contextlib import nullcontext
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.runs import SMALL, flags
from helpers.written import table_of
from PIL import Image
from torchvision.transforms import RandomHorizontalFlip, RandomResizedCrop

from dataset import DATASETS
from dataset.base import MultimodalDataset, Splits
from dataset.demo import Demo
from engine.parser import make_parser, parse
from methods import METHODS
from methods.joint import Joint
from models.multimodal import MultimodalModel
from scripts import benchmark
from scripts.benchmarks import data, ddp, step, timing
from scripts.benchmarks.public import PublicClips, has_public_loader
from scripts.benchmarks.synthetic import random_splits, write_clips
from utils.errors import CombinationError, RunError
from utils.runs.setting import options_of


@pytest.fixture
def call(demo, tmp_path, monkeypatch):
    """call(command, *words): the report on the demo with small models, in batches of 12, and what it writes."""
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    path = tmp_path / "found.json"

    def call(command, *words):
        common = flags(demo, tmp_path, "--batch_size", "12", "--json", str(path))
        text = benchmark.main([command, "--dataset", "demo", *words, *common[2:]])
        return text, json.loads(path.read_text())

    return call


@pytest.fixture
def now(monkeypatch):
    """A clock, [seconds], that only the test moves."""
    now = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    monkeypatch.setattr(data, "perf_counter", lambda: now[0])
    return now


def test_every_value_of_the_flag_beside_the_public_loader(call, now, monkeypatch):
    events = []

    class Clips(MultimodalDataset):
        targets = [0] * 40

        def __init__(self, mode):
            self.mode = mode
            now[0] += {"none": 1.0, "ram": 60.0}.get(mode, 2.0)

        def __len__(self):
            return 40

        def __getitem__(self, i):
            events.append((self.mode, i))
            now[0] += {"none": 2.0, "ram": 0.5}.get(self.mode, 1.0)
            return {"audio": torch.zeros(1)}, 0, i

    def public(self, i):
        events.append(("public", i))
        now[0] += 4.0
        return 0

    monkeypatch.setattr(data, "build", lambda args, names: Splits(Clips(args.cache), None, None, None, None, ()))
    monkeypatch.setattr(PublicClips, "__getitem__", public)
    text, found = call("data", "--samples", "20")
    rows = {row["loader"]: row for row in table_of(text)}
    choices = options_of(make_parser("demo", "joint"))["--cache"].choices
    assert list(rows) == ["public", *choices] and {"none", "ram"} <= {*choices}
    shown = [tuple(row.values())[1:5] for row in rows.values()]
    assert shown[:3:2] == [("0.2", "1.00", "1.00 to 1.00", "-"), ("2.0", "8.00", "8.00 to 8.00", "60.0")]
    assert shown[1] == ("0.5", "2.00", "2.00 to 2.00", "1.0")
    assert "20 samples a pass, batches of 12, 0 worker" in text and "ratios over `public`" in text
    assert found["rows"]["none"]["seconds"] == [40.0] * 5 and found["rows"]["ram"]["ready"]["seconds"] == 60.0
    # Six passes, the first of which is not timed; the modes take turns, and ours are spread over the split.
    turn = [name for name in rows for _ in range(20)]
    assert [mode for mode, _ in events] == turn * 6
    assert {i for mode, i in events if mode == "none"} == {*range(0, 40, 2)}


@pytest.mark.parametrize("words, rate", [([], "0.5"), (["--host"], "1.0")])
def test_what_the_device_does_is_left_out_for_the_host(call, now, monkeypatch, words, rate):
    class Clips(MultimodalDataset):
        targets = [0] * 12

        def __init__(self):
            pass

        def __len__(self):
            return 12

        def __getitem__(self, i):
            now[0] += 1.0
            return {"audio": torch.zeros(1)}, 0, i

        def finish(self, inputs):
            now[0] += 12.0
            return inputs

    monkeypatch.setattr(data, "build", lambda *_: Splits(Clips(), None, None, None, None, ()))
    monkeypatch.setattr(data, "has_public_loader", lambda *_: False)
    text, _ = call("data", *words)
    assert {row["samples a second"] for row in table_of(text)} == {rate}
    assert ("on the host alone" in text) == bool(words)


def test_modes_that_a_data_set_does_not_have(call, demo, now, monkeypatch, tmp_path):
    assert data.modes("MOSI") == [None]

    def build(args, names):
        if args.cache != "none":
            raise CombinationError(f"--cache {args.cache} is not for these")
        return Splits(torch.utils.data.TensorDataset(torch.zeros(4)), None, None, None, None, ())

    monkeypatch.setattr(data, "build", build)
    monkeypatch.setattr(data, "one_pass", lambda run, host: now.__setitem__(0, now[0] + 2.0))
    monkeypatch.setattr(data, "has_public_loader", lambda *_: False)
    text, _ = call("data")
    assert [(row["loader"], row["samples a second"], row["ratio, median"]) for row in table_of(text)] == [
        ("none", "2.0", "1.00")
    ]
    assert "No row `ram`: --cache ram is not for these." in text and "No row `public`" in text
    with pytest.raises(RunError, match="--synthetic is for CREMAD, .*, not MOSI"):
        benchmark.main(["data", "--dataset", "MOSI", "--synthetic"])
    with pytest.raises(RunError, match="leave --synthetic away"):
        benchmark.main(["data", "--dataset", "demo", "--synthetic"])


def test_the_data_that_the_public_loader_reads(demo, tmp_path):
    def readable(name, root):
        return has_public_loader(DATASETS[name], parse(["--dataset", name, "--data_root", str(root)]))

    assert readable("CREMAD", demo) and readable("demo", demo) and not readable("CREMAD", tmp_path)
    assert not readable("GRID", demo) and not readable("KineticsSounds", demo)  # bands, Kaldi's filterbank


@pytest.mark.parametrize("words, named", [(["--cache", "ram"], "every value"), (["--method", "ogm"], "every method")])
def test_what_the_loaders_benchmark_decides_itself(call, capsys, words, named):
    with pytest.raises(SystemExit):
        call("data", *words)
    assert named in capsys.readouterr().err


def test_what_a_cache_takes(tmp_path):
    data.use(str(tmp_path))  # what earlier tests have left is given back by the first look
    before = data.use(str(tmp_path))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "cache.bin").write_bytes(b"0" * 2**21)
    kept = np.ones(2**28, np.uint8)
    taken = data.use(str(tmp_path)) - before
    assert taken.disk == 2**21 and 0.9 * 2**28 < taken.memory < 1.5 * 2**28 and taken.gpu == 0 and taken.seconds > 0
    assert str(data.Use(1.0, 3 * 2**20, 2**20, 0)) == "3 MiB of memory, 1 MiB of disk" and str(taken - taken) == "-"
    assert kept.all()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three generated clips, two of them to train on, and their arguments."""
    root = tmp_path_factory.mktemp("clips") / "CREMAD"
    args = parse(["--dataset", "CREMAD", "--method", "joint", "--data_root", str(root), "--frames", "8"])
    write_clips(root, args, 2)
    return args


def test_generated_clips_are_like_cremads(clips):
    train, test = DATASETS["CREMAD"].read_splits(clips)
    assert (len(train), len(test)) == (2, 1)
    files = sorted(Path(clips.data_root).glob("Image-03-FPS/*/*.jpg"))
    assert len(files) == 3 * 8 and Image.open(files[0]).size == (480, 360)
    assert all(10_000 < file.stat().st_size < 40_000 for file in files)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:audioread")
def test_the_public_loader_reads_what_ours_reads(clips, monkeypatch):
    source = DATASETS["CREMAD"]
    rows = source.read_splits(clips)[0]
    ours = source(clips, rows, ("audio", "visual"), train=False)
    # The whole picture, not mirrored: what ours takes in evaluation.
    monkeypatch.setattr(
        RandomResizedCrop, "get_params", staticmethod(lambda image, *_: (0, 0, image.height, image.width))
    )
    monkeypatch.setattr(RandomHorizontalFlip, "forward", lambda self, image: image)
    public = PublicClips(clips, source, rows)
    assert len(public) == len(ours) == 2
    for i in range(2):
        inputs, target, _ = ours[i]
        spectrogram, images, label = public[i]
        assert label == target and spectrogram.shape == (257, 188)
        torch.testing.assert_close(torch.from_numpy(spectrogram), inputs["audio"][0], rtol=1e-4, atol=1e-4)
        assert images.shape == (3, 8, 224, 224)
        grey_level = 1 / 255 / 0.224
        torch.testing.assert_close(images.permute(1, 0, 2, 3), inputs["visual"], rtol=0, atol=1.01 * grey_level)


def test_the_public_loader_draws_as_training_does(clips, monkeypatch):
    source, opened = DATASETS["CREMAD"], []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(Path(path).name) or real(path))
    args = parse(["--dataset", "CREMAD", "--data_root", clips.data_root, "--image_size", "32"])
    public = PublicClips(args, source, source.read_splits(clips)[0])
    spectrogram, images, _ = public[0]
    others = [public[0] for _ in range(7)]
    assert images.shape == (3, 3, 32, 32) and not any(torch.equal(images, other[1]) for other in others)
    assert all(np.array_equal(spectrogram, other[0]) for other in others)
    chosen = [opened[i : i + 3] for i in range(0, len(opened), 3)]
    assert len(chosen) == 8 and all(names == sorted({*names}) for names in chosen)
    assert len({*map(tuple, chosen)}) > 1 and max(opened) > "00003.jpg"


def test_random_inputs_have_the_papers_shapes():
    args = parse(["--dataset", "CREMAD", "--method", "joint"])
    splits = random_splits(args, ("audio", "visual"), held_out=0.1, count=7)
    for split in (splits.train, splits.plain, splits.held_out, splits.test):
        inputs, target, index = split[6]
        assert len(split) == 7 and (target, index) == (0, 6)  # of six classes
        assert {name: tuple(x.shape) for name, x in inputs.items()} == {
            "audio": (1, 257, 188), "visual": (3, 3, 224, 224),
        }  # fmt: skip
        assert abs(inputs["visual"].mean()) < 0.01 and abs(inputs["visual"].std() - 1) < 0.01
    assert splits.train.targets == [0, 1, 2, 3, 4, 5, 0]
    assert not torch.equal(splits.train[0][0]["audio"], splits.train[1][0]["audio"])
    assert random_splits(args, ("visual",), 0.0, 2).train[0][0].keys() == {"visual"}
    with pytest.raises(RunError, match="--synthetic is for CREMAD, .*, not MOSI"):
        random_splits(parse(["--dataset", "MOSI"]), ("text",), 0.0, 2)


def test_evaluation_beside_a_bare_loop(call, now, monkeypatch):
    modes = set()

    def encode(self, *words):
        modes.add((self.training, torch.is_grad_enabled()))
        now[0] += 1.0
        return real_encode(self, *words)

    def forward(self, batch):
        now[0] += 0.5
        return real_forward(self, batch)

    real_encode, real_forward = MultimodalModel.encode, Joint.forward
    monkeypatch.setattr(MultimodalModel, "encode", encode)
    monkeypatch.setattr(Joint, "forward", forward)
    text, found = call("eval")
    assert table_of(text) == [{"method": "joint", "ms a pass": "3000.0", "bare, ms a pass": "2000.0",
                               "ratio, median": "1.50", "ratio, range": "1.50 to 1.50"}]  # fmt: skip
    assert "2 batches of at most 12" in text and found["rows"]["joint"]["seconds"] == [[2.0, 3.0]] * 5
    assert modes == {(False, False)}


def test_an_epoch_is_the_training_loops(call, now, monkeypatch):
    epochs = []

    class Once(Joint):
        name, cost = "joint", 1.0

        def after_backward(self, output):
            super().after_backward(output)
            now[0] += self.cost

        def on_epoch_start(self, run):
            super().on_epoch_start(run)
            now[0] += 2.0
            epochs.append((self.name, run.epoch, self.window.epoch, self.window.is_open("visual")))

    class Twice(Once):
        name, cost = "twice", 4.0

    monkeypatch.setitem(METHODS, "joint", Once)
    monkeypatch.setitem(METHODS, "inforeg", Twice)
    text, found = call("epoch")
    assert "48 samples in batches of 12, 0 loader process(es)" in text
    assert table_of(text) == [{"method": "inforeg", "s an epoch": "18.0", "joint, s an epoch": "6.0",
                               "ratio, median": "3.00", "ratio, range": "3.00 to 3.00"}]  # fmt: skip
    assert epochs == [("joint", 7, 7, True), ("twice", 7, 7, True)] * 6
    assert found["rows"]["inforeg"]["seconds"] == [[6.0, 18.0]] * 5


def test_efficiency(call, monkeypatch):
    groups = []

    def group(count, name, argv, steps):
        groups.append((count, name, steps))
        return nullcontext(SimpleNamespace(clock=lambda: repeat({1: 0.8, 4: 0.25}[count])))

    monkeypatch.setattr(ddp, "Group", group)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    text, found = call("ddp", "--processes", "4", "--methods", "ogm", "--steps", "2")
    assert table_of(text) == [{"method": "ogm", "ms a step, 1 process": "800.0", "ms a step, 4 processes": "250.0",
                               "efficiency, median": "0.80", "efficiency, range": "0.80 to 0.80"}]  # fmt: skip
    assert groups == [(1, "ogm", 2), (4, "ogm", 2)] and found["processes"] == 4
    assert found["rows"]["ogm"] == {"seconds": [[0.8, 0.25]] * 5, "efficiency": [0.8] * 5}
    with pytest.raises(RunError, match="--processes 5: each takes a core of its own, and there are 4"):
        call("ddp", "--processes", "5")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_processes_each_on_its_core(tmp_path):
    words = "--encoder convnet --frames 2 --image_size 32 --batch_size 6 --device cpu --workers 0".split()
    argv = step.flags_of("demo", ["inforeg"], words, tmp_path)["inforeg"]
    with ddp.Group(2, "inforeg", argv, steps=1) as group:
        clock = group.clock()
        assert next(clock) > 0 and next(clock) > 0
        parent = group.torchrun.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        lines = [line for child in children for line in Path(f"/proc/{child}/status").read_text().splitlines()]
        cores = [line.split()[1] for line in lines if line.startswith("Cpus_allowed_list")]
    assert sorted(cores) == [str(core) for core in sorted(os.sched_getaffinity(0))[:2]]
    assert group.torchrun.returncode == 0


def test_a_process_that_fails_says_why(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho torchrun: noise >&2\necho error: no data >&2\necho Traceback >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with ddp.Group(2, "joint", [], steps=1) as group, pytest.raises(RunError) as refused:
        next(group.clock())
    assert str(refused.value) == "2 process(es) of joint failed: no data"
    python.write_text("#!/bin/sh\necho a killed process >&2\nexit 1\n")
    with ddp.Group(2, "joint", [], steps=1) as group, pytest.raises(RunError, match="failed: a killed process"):
        next(group.clock())
