"""docs/EXTENDING.md: its blocks, put where it says into a copy of the repository, are what it says they are."""

import functools
import importlib
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.places import ROOT
from helpers.steps import assert_evaluates_as_the_model, host_reads, step

DOCUMENT = (ROOT / "docs" / "EXTENDING.md").read_text()
BLOCKS = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", DOCUMENT, re.S | re.M)
ENTRIES = re.findall(r"^\| `(\S+\.py)` \| (?:`(from [^`]+)` )?\| `([A-Z]+)` \| `([^`]+)` \|$", DOCUMENT, re.M)
OURS = ("main", "inforeg", "utils", "models", "dataset", "selection", "methods", "engine", "scripts")
SENSORS = ("motion", "rotation", "pulse")
SMALL = ["--dataset", "wearable", "--fusion", "lowrank", "--workers", "0", "--device", "cpu", "--tag", "test"]
STEPS = 8  # an epoch, as the document says


def extend(root):
    """Copy the repository's code to `root` and put into it what the document prints."""
    for name in OURS[1:]:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", root)
    (root / "data").mkdir()
    for name, code in BLOCKS:
        file = root / name
        before = file.read_text() if file.exists() else ""
        head, table, rest = before.partition("FUSIONS = ")  # a class stands above the table that names it
        parts = [head.rstrip(), code.rstrip(), table + rest]
        file.write_text("\n\n\n".join(part for part in parts if part) + ("" if rest else "\n"))
    for name, line, table, entry in ENTRIES:
        code = (root / name).read_text()
        code, count = re.subn(rf"^({table}\b.*= {{)", lambda found, e=entry: f"{found[1]}\n    {e} ", code, flags=re.M)
        assert count == 1, f"{name} has no {table}"
        (root / name).write_text(re.sub(r"^from ", f"{line}\nfrom ", code, count=1, flags=re.M) if line else code)


def ours():
    return [name for name in sys.modules if name.split(".")[0] in OURS]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The extended copy, which stands in for the repository as long as this file's tests run."""
    root = tmp_path_factory.mktemp("repository")
    extend(root)
    with pytest.MonkeyPatch.context() as patch:
        for name in ours():
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(root)
        patch.chdir(root)
        yield root
        for name in ours():
            del sys.modules[name]


@pytest.fixture(scope="module")
def program(root):
    runpy.run_path("data/prepare_wearable.py")
    program = importlib.import_module("main")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "draw", lambda *_: None)
        yield program


@pytest.fixture(scope="module")
def train(program):
    """train(method, out, *flags): two epochs; the folder of the run."""

    @functools.cache
    def run(method, out, *flags):
        program.main([*SMALL, "--method", method, "--epochs", "2", "--out", out, *flags])
        return Path(out, "wearable", method, "test", "seed0")

    return run


@pytest.fixture
def start(program):
    """start(*flags): a method before its first step, and a batch of its training split."""

    def make(*flags):
        from dataset import build
        from dataset.loader import make_loader
        from engine.parser import parse
        from engine.setup import make_method

        args = parse([*SMALL, "--method", "loss_share", *flags])
        method = make_method(args)
        method.model.train()
        return method, next(iter(make_loader(build(args, method.model.modalities).train, 32, 0)))

    return make


def state(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_weights(one, other):
    one, other = state(one)["model"], state(other)["model"]
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_document_has_a_block_for_each_part_and_registers_it():
    assert [name for name, _ in BLOCKS] == [
        "methods/loss_share.py", "models/encoders.py", "dataset/wearable.py", "data/prepare_wearable.py",
        "models/fusion.py", "train_tracked.py",
    ]  # fmt: skip
    assert len(BLOCKS) == DOCUMENT.count("```python")
    assert [table for _, _, table, _ in ENTRIES] == ["METHODS", "DATASETS", "FUSIONS"]


def test_the_blocks_are_in_the_style_of_the_house(root, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, code in BLOCKS:
        (tmp_path / name.replace("/", "_")).write_text(code)
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "format", "--no-cache", "--check", tmp_path], check=True)
    config = ["--no-cache", "--config", tmp_path / "pyproject.toml"]
    subprocess.run([*ruff, "check", *config, *(root / name for name, _ in BLOCKS)], check=True)


def test_the_commands_run_as_printed_and_leave_what_the_document_says(program, monkeypatch, capsys):
    from scripts import collect
    from utils.runs.plots import draw

    monkeypatch.setattr(program, "draw", draw)
    text = DOCUMENT.split("## Train")[1]
    block, path = re.search(r"```bash\n(.*?)```", text, re.S)[1], Path(re.search(r"`(results/\S+/seed0)/`", text)[1])
    commands = [line.split() for line in block.splitlines()]
    assert [words[1] for words in commands] == ["data/prepare_wearable.py", "main.py", "scripts/collect.py"]
    result = program.main([*commands[1][2:], "--workers", "0", "--device", "cpu"])
    assert result["last"]["accuracy"] > 0.9
    row = rows(path)[-1]
    columns = {line: names for line, names in re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", text, re.M)}
    assert columns.keys() == row.keys() - {"epoch", "lr"}
    for column, names in columns.items():
        assert set(re.findall(r"`(\w+)`", names)) == row[column].keys(), column
    assert row["coefficient"]["motion"] < min(row["coefficient"][name] for name in ("rotation", "pulse"))
    drawn = {"fisher_trace", "accuracy", "hold", "confusion", "method"}
    assert {file.stem for file in (path / "figures").iterdir()} == drawn
    assert "| loss_share, fusion lowrank | " in collect.main(commands[2][2:])


def test_an_epochs_row_goes_elsewhere_by_the_lines_that_are_printed(program, monkeypatch, capsys):
    sent, started = [], []
    tracked = SimpleNamespace(log=sent.append)
    wandb = SimpleNamespace(init=lambda **told: started.append(told) or tracked)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    callbacks = importlib.import_module("engine.callbacks")
    monkeypatch.setattr(callbacks, "_registered", [])

    @callbacks.register
    def broken(row, args):
        row.clear()  # its own copy
        raise ConnectionError(f"no network for {args.method}")

    words = [*SMALL, "--method", "joint", "--epochs", "2", "--out", "tracked"]
    monkeypatch.setattr(sys, "argv", ["train_tracked.py", *words])
    runpy.run_path("train_tracked.py", run_name="__main__")
    assert started == [{"project": "inforeg"}]
    assert sent == rows(Path("tracked/wearable/joint/test/seed0")) and [row["epoch"] for row in sent] == [0, 1]
    warned = "warning: callback broken failed after epoch 2 (ConnectionError: no network for joint)"
    assert warned in capsys.readouterr().err.splitlines()
    main = program.main([*words, "--resume"])  # a run that is done has no epoch to send
    assert main and len(sent) == 2


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(train, monkeypatch):
    from methods.loss_share import LossShare

    after_backward, steps = LossShare.after_backward, []

    def stop(self, output):
        after_backward(self, output)
        steps.append(output)
        if len(steps) == STEPS + 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(LossShare, "after_backward", stop)
    with pytest.raises(KeyboardInterrupt):
        train("loss_share", "stopped")
    monkeypatch.undo()
    assert state(Path("stopped/wearable/loss_share/test/seed0"))["epoch"] == 0
    stopped, whole = train("loss_share", "stopped", "--resume"), train("loss_share", "whole")
    assert same_weights(stopped, whole)
    assert torch.equal(state(stopped)["method"]["loss"], state(whole)["method"]["loss"])
    for name in ("metrics.jsonl", "result.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


def test_gamma_0_is_joint_training_bit_for_bit(train):
    neutral, joint = train("loss_share", "neutral", "--gamma", "0"), train("joint", "joint")
    assert same_weights(neutral, joint)
    assert (neutral / "result.json").read_bytes() == (joint / "result.json").read_bytes()
    assert all(set(row["coefficient"].values()) == {1.0} for row in rows(neutral))
    assert not same_weights(train("loss_share", "whole"), joint)


@pytest.mark.parametrize("during", ["all", "prime"])
def test_an_encoders_gradient_is_scaled_by_its_share_of_the_smoothed_losses(start, during):
    method, batch = start("--gamma", "2", "--memory", "0.75", "--modulate_during", during)
    smoothed = torch.full((3,), 4.0).log()  # a guess among four classes
    for _ in range(2):
        output = method.forward(batch)
        method.model.zero_grad()
        method.backward(method.losses(output))
        before = {name: p.grad.clone() for name, p in method.model.named_parameters()}
        method.after_backward(output)
        p_true = torch.stack([z.softmax(dim=1).gather(1, batch.target[:, None]) for z in output.unimodal.values()])
        smoothed = 0.75 * smoothed - 0.25 * p_true.log().mean(dim=(1, 2)).detach()
        k = (3 * smoothed / smoothed.sum()) ** 2 if during == "all" else torch.ones(3)  # no window is open yet
        for name, p in method.model.named_parameters():
            factor = k[SENSORS.index(name.split(".")[1])] if name.startswith("encoders.") else 1.0
            torch.testing.assert_close(p.grad, factor * before[name], rtol=1e-5, atol=0)
        assert len(set(k.tolist())) == (3 if during == "all" else 1)
        norms = {
            name: sum(before[n].square().sum() for n in before if n.startswith(f"encoders.{name}.")) for name in SENSORS
        }
        assert method.trace.end_epoch() == pytest.approx({name: float(x) for name, x in norms.items()}, rel=1e-4)
        method.trace.load_state_dict({"history": dict.fromkeys(SENSORS, [])})  # the first epoch again


def test_a_step_reads_no_tensor_and_evaluation_is_the_plain_model(start, monkeypatch):
    method, batch = start()
    with monkeypatch.context() as patch:
        reads = host_reads(patch)
        step(method, batch)
        assert reads == []
    assert_evaluates_as_the_model(method, batch)


def test_flags_and_their_defaults_by_data_set(program, capsys):
    from engine.parser import parse

    chosen = ["--dataset", "wearable", "--method", "loss_share"]
    args = parse(chosen)
    assert (args.gamma, args.memory, args.shift, args.data_root) == (1.0, 0.5, 8, "data/wearable")
    assert parse(["--method", "loss_share"]).memory == 0.9
    assert parse([*chosen, "--memory", "0.9", "--shift", "0"]).tag == "memory=0.9_shift=0"
    for wrong, said in (
        (["--method", "joint", "--gamma", "1"], "--gamma is a flag of --method loss_share, not of joint"),
        (["--shift", "3"], "--shift is a flag of --dataset wearable, not of CREMAD"),
        ([*chosen, "--gamma", "-1"], "--gamma"),
    ):
        with pytest.raises(SystemExit):
            parse(wrong)
        assert said in capsys.readouterr().err


def rewrite(**changes):
    """A damage: train.npz with some arrays replaced, or without those that are None."""

    def damage(folder):
        with np.load(folder / "train.npz") as file:
            arrays = dict(file)
        arrays |= {name: None if new is None else new(arrays[name]) for name, new in changes.items()}
        np.savez(folder / "train.npz", **{name: array for name, array in arrays.items() if array is not None})

    return damage


def one_nan(array):
    return np.where(np.arange(array.size).reshape(array.shape) == 5, np.nan, array)


def as_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


DAMAGES = {
    "no file": (lambda f: (f / "train.npz").unlink(), "train.npz cannot be read"),
    "cut": (lambda f: (f / "train.npz").write_bytes((f / "train.npz").read_bytes()[:5000]), "train.npz cannot be read"),
    "empty file": (lambda f: (f / "train.npz").write_bytes(b""), "train.npz cannot be read"),
    "text": (lambda f: (f / "train.npz").write_text("motion"), "train.npz cannot be read"),
    "one array": (lambda f: (f / "train.npz").write_bytes(as_bytes(np.zeros(3))), "train.npz cannot be read"),
    "a sensor missing": (rewrite(pulse=None), "pulse"),
    "a sensor too short": (rewrite(pulse=lambda a: a[:-1]), "pulse is (255, 1, 64), not (256, 1, 64)"),
    "another sensor's channels": (rewrite(rotation=lambda a: a[:, :2]), "rotation is (256, 2, 64), not (256, 3, 64)"),
    "no time": (rewrite(motion=lambda a: a[:, :, 0]), "motion is (256, 3)"),
    "a name too few": (rewrite(name=lambda a: a[1:]), "name is (255,), not (256,)"),
    "not a number": (rewrite(motion=one_nan), "motion is not finite"),
    "a label too high": (rewrite(label=lambda a: a + 1), "labels must be 0 to 3"),
    "labels that are no numbers": (rewrite(label=lambda a: a + 0.5), "train.npz cannot be read"),
    "no samples": (rewrite(**dict.fromkeys((*SENSORS, "label", "name"), lambda a: a[:0])), "no samples"),
    "a sample in both": (
        rewrite(name=lambda a: np.array(["test7", *a[1:]])), "both train and test, 1: test7",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_give_one_clear_error_before_the_first_step(program, tmp_path, damage):
    from utils.errors import DataError

    do, said = DAMAGES[damage]
    folder = shutil.copytree("data/wearable", tmp_path / "wearable")
    do(folder)
    with pytest.raises(DataError) as refused:
        program.main([*SMALL, "--data_root", str(folder), "--out", str(tmp_path / "out")])
    message = str(refused.value)
    assert said in message and str(folder) in message and "\n" not in message, message
    assert not (tmp_path / "out").exists()


def test_a_samples_draws_depend_on_seed_epoch_and_position_alone(start):
    from dataset import build
    from dataset.loader import Seeded

    method, _ = start()
    splits = build(method.args, SENSORS)

    def drawn(data, *key):
        torch.rand(1), np.random.rand()  # what was drawn before does not matter
        return torch.cat(list(data(key)[0].values()))

    for split, varies in ((splits.train, True), (splits.test, False)):
        view = lambda key, split=split: Seeded(split, key[0], key[1])[key[2]]  # noqa: E731
        plain = torch.cat([split.inputs[name][3] for name in SENSORS])
        samples = [drawn(view, seed, epoch, 3) for seed in (0, 1) for epoch in range(4)]
        assert all(torch.equal(sample, drawn(view, 0, epoch, 3)) for epoch, sample in enumerate(samples[:4]))
        assert (len({sample.sum(dim=0)[0].item() for sample in samples}) > 1) == varies
        # One shift for all sensors: each sample is the stored one, turned by at most eight places.
        turned = [plain.roll(by, dims=1) for by in (range(-8, 9) if varies else [0])]
        assert all(any(torch.equal(sample, other) for other in turned) for sample in samples)


@pytest.mark.parametrize("names", [SENSORS[:1], SENSORS[:2], SENSORS])
def test_the_fusion_and_its_unimodal_read_out(program, names):
    from models.fusion import FUSIONS

    torch.manual_seed(0)
    head = FUSIONS["lowrank"]({name: dim for dim, name in enumerate(names, 2)}, 4).double()
    features = {name: torch.randn(5, dim, dtype=torch.float64) for dim, name in enumerate(names, 2)}
    for p in head.parameters():
        torch.nn.init.normal_(p)

    def fused(features):
        product = torch.ones(5, head.rank, dtype=torch.float64)
        for name in names:
            layer = head.factors[name]
            product = product * (1 + torch.einsum("rd,bd->br", layer.weight, features[name]) + layer.bias)
        return torch.einsum("cr,br->bc", head.head.weight, product) + head.head.bias

    torch.testing.assert_close(head(features), fused(features), rtol=1e-12, atol=1e-12)
    assert torch.equal(head(dict(reversed(features.items()))), head(features))
    read_out = head.unimodal(features)
    assert tuple(read_out) == names
    for name in names:
        alone = {other: f if other == name else torch.zeros_like(f) for other, f in features.items()}
        torch.testing.assert_close(read_out[name], fused(alone), rtol=1e-12, atol=1e-12)
    # Where c is zero, as at the start, the others' zeros leave the product as it is.
    for layer in head.factors.values():
        torch.nn.init.zeros_(layer.bias)
    for name, z in head.unimodal(features).items():
        torch.testing.assert_close(z, head.head(1 + head.factors[name](features[name])), rtol=1e-12, atol=1e-12)


def test_the_encoder(program):
    from models.encoders import SequenceNet

    encoder = SequenceNet(3).eval()
    x = y = torch.randn(4, 3, 21)
    for convolution, norm, _ in encoder.stages:
        y = torch.nn.functional.conv1d(y, convolution.weight, stride=2, padding=2)
        y = (y / (1 + norm.eps) ** 0.5).relu()  # running statistics as they start, mean 0 and variance 1
    assert encoder(x).shape == (4, SequenceNet.dim) == (4, 32)
    torch.testing.assert_close(encoder(x), y.mean(dim=2))


def test_the_encoder_is_in_stages(train):
    (first, last) = rows(train("greedy", "greedy"))
    assert last["train"]["loss"] < first["train"]["loss"]


def test_ogm_scales_all_convolutions_of_the_encoder(program):
    from methods.ogm import modulated
    from models.encoders import SequenceNet

    encoder = SequenceNet(3)
    assert [id(p) for p in modulated(encoder)] == [id(stage[0].weight) for stage in encoder.stages]


def test_who_refuses_the_fusion(program):
    from engine.parser import parse
    from engine.setup import make_method
    from utils.errors import RunError

    with pytest.raises(RunError) as refused:
        make_method(parse(["--dataset", "wearable", "--method", "dgl", "--fusion", "lowrank"]))
    assert "\n" not in str(refused.value)


def test_the_document_names_the_whole_contract(root):
    from methods.base import Method
    from methods.run import Run

    named = set(re.findall(r"`(\w+)(?:\([\w, ]*\))?`", DOCUMENT))
    hooks = {name for name in vars(Method) if not name.startswith("_")}
    assert hooks <= named
    assert {*Run.__dataclass_fields__} <= named
    # What is asked of a data set, wherever it is asked.
    files = [
        ROOT / "main.py",
        ROOT / "engine/parser.py",
        ROOT / "dataset/registry.py",
        *(ROOT / "scripts").glob("*.py"),
    ]
    code = "\n".join(file.read_text() for file in files)
    asked = set(re.findall(r"\b(?:source|DATASETS\[.*?\])\.(\w+)", code))
    assert asked and asked <= named


def test_what_the_documents_name_exists(root):
    for name in re.findall(
        r"\b(?:scripts|docs|data|methods|models|utils|dataset|inforeg|engine|tests)(?:/\w+)+\.(?:py|sh|md)", DOCUMENT
    ):
        assert (root / name).exists() or (ROOT / name).exists(), name
    for link in re.findall(r"\]\((?!http|#)([^)#]+)\)", DOCUMENT):
        assert (ROOT / "docs" / link).exists(), link
    text = DOCUMENT.split("## Tests")[1]
    for line in text.splitlines():
        for file in re.findall(r"`(tests/\w+\.py)`", line):
            code = (ROOT / file).read_text()
            missing = [name for name in re.findall(r"`(\w+)`", line) if not re.search(rf"\b{name}\b", code)]
            assert not missing, f"{file} has no {missing}"
    assert "(docs/EXTENDING.md)" in (ROOT / "README.md").read_text()
