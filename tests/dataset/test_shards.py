"""Tar shards: the same samples as from the folder, an order that nothing but the seed decides, flat memory, faults."""

import json
import os
import re
import shutil
import signal
import zlib
from argparse import Namespace
from functools import partial
from pathlib import Path

import pack_shards
import pytest
import torch
import webdataset
from helpers.acting import acting
from helpers.instances import make_clips
from helpers.preparing import status_of
from helpers.runs import CLIPS, SMALL, checkpoint, differing, flags, train
from torch.utils.data import Subset

import main as program
from dataset import build, checksums
from dataset import loader as loading
from dataset.base import below
from dataset.classes import WORDS
from dataset.demo import Demo
from dataset.loader import Seeded, make_loader
from dataset.prepare.run import alone
from dataset.storage import shards, stream
from dataset.storage.stream import Stream
from engine.parser import parse
from methods.valuation import Listed
from utils.distributed import gather as distributed
from utils.errors import DataError, RunError, sentence

TRAIN, WINDOW = CLIPS * 3 // 4, 16  # samples of an epoch, and of the window
MODALITIES = ("audio", "visual")


def run(*words):
    """Exit status of data/pack_shards.py."""
    return status_of(partial(pack_shards.main, [str(word) for word in words]))


def pack(root, out, *more):
    assert run("--data_root", root, "--out", out, *more) == 0
    return out


def pattern(out):
    names = sorted(path.stem for path in out.glob("*.tar"))
    return f"{out}/{{{names[0]}..{names[-1]}}}.tar"


def tree(folder):
    """What the shards and what is beside them hold; hidden files have the times of what was packed."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


@pytest.fixture(scope="module")
def packed(demo, tmp_path_factory):
    """Five shards of training clips, the last of eight, and two of test clips."""
    return pack(demo, tmp_path_factory.mktemp("packed") / "demo", "--samples", "10")


@pytest.fixture
def copy(packed, tmp_path):
    """Shards to break."""
    return shutil.copytree(packed, tmp_path / "copy")


def splits(root, *more, held_out=0.0):
    """As a run reads them; with all four frames of a clip, two of which are drawn."""
    more = ("--frames", "2", *more)
    return build(parse(flags(root, "unused", *more)), MODALITIES, held_out)


def both(demo, packed, *more, held_out=0.0):
    window = ("--shuffle_buffer", str(WINDOW))
    return splits(demo, *more, held_out=held_out), splits(pattern(packed), *window, *more, held_out=held_out)


def samples(loader):
    """{index: (inputs, target)}, and the indices in the order of the loader."""
    found, order = {}, []
    for batch in loader:
        for row, index in enumerate(batch.index.tolist()):
            found[index] = {name: x[row] for name, x in batch.inputs.items()} | {"target": batch.target[row]}
            order.append(index)
    return found, order


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[i][name], other[i][name]) for i in one for name in one[i])


# The samples


@pytest.mark.parametrize("workers", [0, 3])
def test_an_epoch_has_the_samples_of_the_folders_epoch_bit_for_bit(demo, packed, workers):
    folder, sharded = (data.train for data in both(demo, packed, "--train_noise", "visual:shot:2@0.5"))
    for epoch in (0, 1):
        one, natural = samples(make_loader(folder, 7, workers, seed=3, epoch=epoch, shuffle=True))
        other, planned = samples(make_loader(sharded, 7, workers, seed=3, epoch=epoch, shuffle=True))
        assert equal(one, other) and sorted(planned) == sorted(natural) == list(range(TRAIN))
        assert planned != natural


@pytest.mark.parametrize("part", ["train", "plain", "held_out", "val", "test"])
def test_every_split_is_read_in_its_order(demo, packed, part):
    one, other = (getattr(data, part) for data in both(demo, packed, "--val_fraction", "0.17", held_out=0.17))
    (found, order), (expected, natural) = (samples(make_loader(data, 5, workers=2)) for data in (other, one))
    assert order == natural and len(order) > 7 and equal(found, expected)


@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="REAL_DATA is unset: it names the folder of real clips")
def test_real_clips(tmp_path):
    real, few = Path(os.environ["REAL_DATA"]) / "grid_digits", tmp_path / "few"
    few.mkdir()
    for name in ("AudioWAV", "Image-25-FPS"):
        (few / name).symlink_to(real / name)
    for name, count in (("train.csv", 60), ("test.csv", 20)):
        (few / name).write_text("".join((real / name).read_text().splitlines(keepends=True)[:count]))
    out = pack(few, tmp_path / "out", "--samples", "25")
    one, other = (
        build(parse(["--dataset", "GRID", "--data_root", str(root)]), MODALITIES) for root in (few, pattern(out))
    )
    for part in ("train", "test"):
        loaders = [make_loader(getattr(data, part), 16, 1, shuffle=part == "train") for data in (one, other)]
        assert equal(*(samples(loader)[0] for loader in loaders))


def test_samples_that_are_named_several_times_come_as_often_each_with_its_own_draws(demo, packed):
    picked = [5, 40, 5, 5, 12, 47, 12, 0, 40] * 3
    one, other = (Listed(Subset(data.train, range(TRAIN)), picked) for data in both(demo, packed))
    assert below(other)[1] == picked
    for workers in (0, 2):
        found = [samples(make_loader(data, 4, workers, epoch=1, shuffle=True))[0] for data in (one, other)]
        assert equal(*found) and len(found[0]) == len(picked)
    assert not torch.equal(found[1][2]["visual"], found[1][3]["visual"])  # the same clip, other frames and crops


def test_a_loader_that_is_read_twice_or_beside_another_gives_the_same(packed):
    data = splits(pattern(packed), "--shuffle_buffer", str(WINDOW)).train
    one, other = (make_loader(data, 6, 0, epoch=epoch, shuffle=True) for epoch in (0, 1))
    first, second = samples(one), samples(other)
    assert first[1] != second[1]
    mixed = list(zip(one, other, strict=True))  # the second time, and in turn
    for (found, order), batches in zip((first, second), zip(*mixed, strict=True), strict=True):
        again, same_order = samples(batches)
        assert same_order == order and equal(again, found)


# The order


def order_of(data, *, seed=0, epoch=0, workers=0, batch_size=8):
    return [batch.index.tolist() for batch in make_loader(data, batch_size, workers, seed, epoch, shuffle=True)]


def test_the_order_depends_on_seed_and_epoch_and_not_on_the_workers(packed):
    data = splits(pattern(packed), "--shuffle_buffer", str(WINDOW)).train
    orders = [order_of(data, workers=workers) for workers in (0, 1, 3)]
    assert orders[0] == orders[1] == orders[2]
    within = Subset(data, [i for i, (shard, _) in enumerate(stored_places(packed)) if shard == "002.tar"])
    for some in (data, within):
        drawn = [sum(order_of(some, **draw), []) for draw in ({}, {"epoch": 1}, {"seed": 1})]
        assert len({tuple(order) for order in drawn}) == 3


def stored_places(packed):
    """{sample: (shard, place in it)} of the training split, from the index."""
    index = json.loads((packed / "shards.json").read_text())["shards"]
    at = {clip: (shard, place) for shard, entry in index.items() for place, clip in enumerate(entry["clips"])}
    clips = [line.split(",")[0] for line in (packed / "train.csv").read_text().splitlines()]
    return [at[clip] for clip in clips]


def test_a_window_of_one_sample_leaves_the_order_of_the_shards(packed):
    data, places = splits(pattern(packed), "--shuffle_buffer", "1").train, stored_places(packed)
    drawn = set()
    for epoch in range(4):
        order = [places[i] for i in sum(order_of(data, epoch=epoch), [])]
        begins = [shard for shard, place in order if place == 0]
        assert sorted(begins) == ["000.tar", "001.tar", "002.tar", "003.tar", "004.tar"]
        assert order == sorted(places, key=lambda at: (begins.index(at[0]), at[1]))
        drawn.add(tuple(begins))
    assert len(drawn) > 1


def test_the_window_mixes_and_no_sample_comes_before_it_has_entered(packed):
    shuffled, stored = (splits(pattern(packed), "--shuffle_buffer", str(size)).train for size in (WINDOW, 1))
    order, reading = (sum(order_of(data, epoch=2), []) for data in (shuffled, stored))
    early = [reading.index(sample) - step for step, sample in enumerate(order)]
    assert max(early) == WINDOW - 1 or WINDOW // 2 < max(early) < WINDOW
    assert min(early) < -WINDOW // 2  # and some wait for long
    assert sum(abs(step) for step in early) / TRAIN > WINDOW / 4
    plans = (shuffled.plan(range(TRAIN), torch.Generator().manual_seed(seed)) for seed in range(40))
    first = {plan.reading.index(plan.order[0]) for plan in plans}
    assert max(first) < WINDOW and len(first) > WINDOW // 2  # it is full before the first is drawn


def test_clips_of_training_are_mixed_over_the_shards_and_those_of_the_test_are_not(tmp_path):
    """Lists are often sorted by class; a window over a few shards would see few classes."""
    classes = ("a", "b", "c")
    root = make_clips(tmp_path / "data", classes, fps=1, train=40, test=4, frames=1)
    for part in ("train", "test"):
        lines = (root / f"{part}.csv").read_text().splitlines(keepends=True)
        (root / f"{part}.csv").write_text("".join(sorted(lines, key=lambda line: line.split(",")[1])))
    out = pack(root, tmp_path / "out", "--samples", "30")
    label = dict(line.split(",") for line in (root / "train.csv").read_text().split())
    index = json.loads((out / "shards.json").read_text())["shards"]
    for shard in ("000.tar", "001.tar", "002.tar", "003.tar"):
        counts = [sum(label[clip] == name for clip in index[shard]["clips"]) for name in classes]
        assert sum(counts) == 30 and min(counts) >= 4, counts
    assert [clip for clip in index["004.tar"]["clips"]] == [
        line.split(",")[0] for line in (root / "test.csv").read_text().splitlines()
    ]


# Who reads what


@pytest.fixture
def reads(monkeypatch):
    """[(shard, offset)] of what is read, in order."""
    found, read = [], shards.Shards.read
    note = lambda self, clip: found.append(self.places[clip][:2]) or read(self, clip)  # noqa: E731
    monkeypatch.setattr(shards.Shards, "read", note)
    return found


def of_process(monkeypatch, number, count):
    for module in (loading, distributed):
        monkeypatch.setattr(module, "world", lambda: count)
    monkeypatch.setattr(distributed, "rank", lambda: number)


def check_forward(found):
    """Every shard is opened once, and read from its beginning to its end."""
    opened = [shard for i, (shard, _) in enumerate(found) if i == 0 or found[i - 1][0] != shard]
    assert len(set(opened)) == len(opened)
    assert all(one[1] < other[1] for one, other in zip(found, found[1:], strict=False) if one[0] == other[0])


@pytest.mark.parametrize("processes, workers", [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_readers_divide_the_bytes_among_them_and_read_forward_within_the_window(
    packed, monkeypatch, reads, processes, workers
):
    data = splits(pattern(packed), "--shuffle_buffer", str(WINDOW)).train
    whole = [(batch.index, batch.inputs["visual"]) for batch in make_loader(data, 8, 0, shuffle=True)]
    parts, everything = {}, []
    for rank in range(processes):
        of_process(monkeypatch, rank, processes)
        loader = make_loader(data, 8, 0, shuffle=True)
        loader = loader if processes == 1 else loader.loader
        batches = loader.dataset.batches
        assert batches == list(loader.batch_sampler)
        for worker in range(workers):
            info = Namespace(id=worker, num_workers=workers)
            monkeypatch.setattr(stream, "get_worker_info", lambda info=info: info)
            streamed = Stream(Seeded(data, 0, 0), loader.dataset.plan, batches)
            reads.clear()
            held = []
            for number in range(worker, len(batches), workers):
                for position in batches[number]:
                    parts.setdefault(number, []).append(streamed[position])
                    held.append(len(streamed.held) + 1)  # with the one in use
            assert not streamed.held and 1 < max(held) <= WINDOW
            check_forward(reads)
            everything += reads
    assert len(everything) == len(set(everything)) == TRAIN  # no byte is read by two
    for number, (index, visual) in enumerate(whole):
        pieces = parts[number]
        assert [piece[2] for piece in pieces] == index.tolist()
        assert torch.equal(torch.stack([piece[0]["visual"] for piece in pieces]), visual)


def test_what_is_wanted_several_times_is_read_once(packed, reads):
    data = Subset(splits(pattern(packed), "--shuffle_buffer", "4").train, [3, 9, 3, 30, 9, 3, 41] * 2)
    loader = make_loader(data, 5, 0, shuffle=True)
    list(loader)
    assert len(reads) == 4 and not loader.dataset.held


def test_a_shard_without_samples_of_the_epoch_is_not_opened(packed, monkeypatch):
    data, places = splits(pattern(packed)).train, stored_places(packed)
    opened, look = set(), Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **more: opened.add(self.name) or look(self, *args, **more))
    wanted = [i for i, (shard, _) in enumerate(places) if shard in ("001.tar", "003.tar")]
    list(make_loader(Subset(data, wanted), 4, 0, shuffle=True))
    assert opened == {"001.tar", "003.tar"}


def test_evaluation_reads_the_test_clips_once_and_forward(packed, reads):
    list(make_loader(splits(pattern(packed)).test, 4, 0))
    assert len(reads) == len(set(reads)) == CLIPS // 4
    check_forward(reads)


# Runs


SETTINGS = {
    "joint": [],
    "gblending": ["--super_epoch", "1"],
    "relearning": [],
    "valuation": [],
    "valuation modality": ["--level", "modality", "--alpha", "9"],
    "g2d": [],
    "pmr": [],
    "inforeg": ["--val_fraction", "0.17"],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_is_that_of_the_folder_in_the_order_of_the_shards(demo, packed, tmp_path, monkeypatch, setting):
    argv = [*acting(setting.split()[0], *SETTINGS[setting]), "--epochs", "2", "--shuffle_buffer", str(WINDOW)]
    one = train(pattern(packed), tmp_path / "shards", *argv)
    construct = Demo.__init__

    def in_order(self, args, clips, modalities, train):
        construct(self, args, clips, modalities, train)
        of_shards = Namespace(**vars(args) | {"data_root": pattern(packed)})
        self.sharded = shards.Shards(of_shards, self.names, modalities, self.audio, self.noise)

    def plan(self, at, generator):
        """The plan of the shards for a data set that reads its folder: an independent way to the same run."""
        drawn = self.sharded.plan(at, generator)
        drawn.stream = lambda data, batches: data
        return drawn

    monkeypatch.setattr(Demo, "__init__", in_order)
    monkeypatch.setattr(Demo, "plan", plan)
    monkeypatch.setattr(Demo, "refusal", lambda args: None)
    other = train(demo, tmp_path / "folder", *argv)
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert not differing(checkpoint(one)["model"], checkpoint(other)["model"])


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(packed, tmp_path, monkeypatch, workers):
    argv = ["--method", "inforeg", "--threshold", "-10", "--epochs", "3", "--shuffle_buffer", str(WINDOW)]
    whole = train(pattern(packed), tmp_path / "whole", *argv)
    from methods import METHODS

    losses, steps = METHODS["inforeg"].losses, iter(range(100))

    def stop(self, output):
        if next(steps) == 5:  # the last step of the second epoch
            raise Interrupted
        return losses(self, output)

    monkeypatch.setattr(METHODS["inforeg"], "losses", stop)
    with pytest.raises(Interrupted):
        train(pattern(packed), tmp_path / "cut", *argv, "--workers", workers)
    monkeypatch.undo()
    cut = train(pattern(packed), tmp_path / "cut", *argv, "--resume")
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert not differing(checkpoint(cut)["model"], checkpoint(whole)["model"])


def test_a_run_goes_on_with_the_shards_or_with_the_folder_that_it_began_with(demo, packed, tmp_path):
    argv = ["--method", "joint", "--epochs", "1"]
    for name, one, other in (("a", demo, pattern(packed)), ("b", pattern(packed), demo)):
        train(one, tmp_path / name, *argv)
        with pytest.raises(RunError, match="--data_root was .*choose --tag"):
            train(other, tmp_path / name, *argv, "--resume")


def test_scripts_find_the_same_in_the_shards_as_in_the_folder(demo, packed, tmp_path, monkeypatch):
    from scripts import evaluate

    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    folder = train(demo, tmp_path, "--method", "joint", "--epochs", "1")
    words = [str(folder / "last.pt"), "--workers", "0", "--eval_conflict", "0.5", "--eval_missing", "visual:0.3"]
    words += ["--missing_fill", "mean", "--eval_noise", "audio:snr:0", "--data_root"]
    assert evaluate.main([*words, str(demo)]) == evaluate.main([*words, pattern(packed)])


def test_checksums_tell_shards_of_other_data_apart(demo, packed, copy):
    def found(root):
        return checksums(parse(flags(root, "unused")))

    assert found(pattern(packed)).keys() - found(demo).keys() == {"shards.json"}
    assert found(pattern(packed)).items() >= found(demo).items()
    index = json.loads((copy / "shards.json").read_text())
    index["shards"]["000.tar"]["sha256"] = "0" * 64
    (copy / "shards.json").write_text(json.dumps(index))
    changed = {name for name, value in found(pattern(copy)).items() if value != found(pattern(packed))[name]}
    assert changed == {"shards.json"}


# Packing


def test_any_reader_of_webdatasets_finds_the_files(demo, packed):
    found = {}
    for sample in webdataset.WebDataset(pattern(packed), shardshuffle=False):
        found[sample["__key__"]] = {name: value for name, value in sample.items() if not name.startswith("__")}
    assert len(found) == CLIPS
    for clip, files in found.items():
        assert files.pop("wav") == (demo / "AudioWAV" / f"{clip}.wav").read_bytes()
        pictures = sorted((demo / "Image-04-FPS" / clip).iterdir())
        assert files == {path.name: path.read_bytes() for path in pictures} and len(files) == 4


def test_the_same_data_give_the_same_bytes(demo, packed, tmp_path):
    shutil.copytree(demo, tmp_path / "demo", copy_function=shutil.copyfile)  # at another time
    out = pack(tmp_path / "demo", tmp_path / "out", "--samples", "10", "--workers", "1")
    assert tree(out) == tree(packed)
    index = json.loads((out / "shards.json").read_text())["shards"]
    assert [path.name for path in sorted(out.glob("*.tar"))] == list(index)
    for name, entry in index.items():
        held = (out / name).read_bytes()
        assert entry["bytes"] == len(held) and entry["sha256"] == pack_shards.hashlib.sha256(held).hexdigest()
        for offset, size, crc32, frames in entry["clips"].values():
            assert zlib.crc32(held[offset : offset + size]) == crc32 and frames == 4


def test_a_killed_packing_goes_on_and_gives_the_same_bytes(demo, packed, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    child = os.fork()
    if not child:
        wanted, pack_one, calls = ["--data_root", demo, "--out", out, "--samples", "10"], pack_shards.pack, iter("abc")

        def die(*args):
            if next(calls) == "c":
                (out / ".002.tar.part").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            return pack_one(*args)

        pack_shards.pack = die
        run(*wanted, "--workers", 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = {path.name for path in out.iterdir()}
    assert {"000.tar", "001.tar", ".002.tar.part"} <= left and not left & {"002.tar", "shards.json", "train.csv"}
    with pytest.raises(DataError, match="has no shards.json"):
        splits(f"{out}/{{000..006}}.tar")
    times = (out / "000.tar").stat().st_mtime_ns
    pack(demo, out, "--samples", "10")
    assert "7 shards, 2 already there, 5 to do" in capfd.readouterr().out
    assert tree(out) == tree(packed) and (out / "000.tar").stat().st_mtime_ns == times
    assert not list(out.glob(".*.part"))
    pack(demo, out, "--samples", "10")
    assert "7 already there, 0 to do" in capfd.readouterr().out


def test_a_shard_that_is_gone_is_packed_again(demo, packed, copy):
    (copy / "003.tar").unlink()
    (copy / "001.tar").write_bytes(b"cut")
    pack(demo, copy, "--samples", "10")
    assert tree(copy) == tree(packed)


def test_names_that_tar_and_webdataset_make_something_else_of(tmp_path):
    root = make_clips(tmp_path / "data", ("bark", "meow"), fps=1, train=4, test=2)
    names = {"train000": "v1.2 (a).b", "train001": "Käse " + 120 * "x", "train002": "50%.x", "train003": "__y__"}
    text = (root / "train.csv").read_text()
    for old, new in names.items():
        (root / "AudioWAV" / f"{old}.wav").rename(root / "AudioWAV" / f"{new}.wav")
        (root / "Image-01-FPS" / old).rename(root / "Image-01-FPS" / new)
        text = text.replace(old, new)
    (root / "train.csv").write_text(text)
    (root / "classes.txt").write_text("bark\nmeow\n")
    out = pack(root, tmp_path / "out")
    args = ["--dataset", "folder", "--image_size", "16", "--data_root"]
    one, other = (build(parse([*args, str(place)]), MODALITIES).train for place in (root, pattern(out)))
    assert equal(*(samples(make_loader(data, 3, 0, shuffle=True))[0] for data in (one, other)))
    keys = {sample["__key__"]: sample["wav"] for sample in webdataset.WebDataset(f"{out}/000.tar", shardshuffle=False)}
    assert len(keys) == 8 and keys["v1%2E2 (a)%2Eb"] == (root / "AudioWAV" / "v1.2 (a).b.wav").read_bytes()


def test_group_splits_read_the_same_shards(tmp_path):
    root = make_clips(tmp_path / "data", WORDS["digit"], fps=25, train=2, test=2)
    rows = [line for part in ("train", "test") for line in (root / f"{part}.csv").read_text().splitlines(keepends=True)]
    named = [f"s{number % 4}_{row}" for number, row in enumerate(rows)]
    for row, name in zip(rows, named, strict=True):
        old, new = row.split(",")[0], name.split(",")[0]
        (root / "AudioWAV" / f"{old}.wav").rename(root / "AudioWAV" / f"{new}.wav")
        (root / "Image-25-FPS" / old).rename(root / "Image-25-FPS" / new)
    (root / "train.csv").write_text("".join(named[:20]))
    (root / "test.csv").write_text("".join(named[20:39]))  # the last clip is in the lists by speaker alone
    (root / "train_by_speaker.csv").write_text("".join(name for name in named if name[1] != "3"))
    (root / "test_by_speaker.csv").write_text("".join(name for name in named if name[1] == "3"))
    out = pack(root, tmp_path / "out", "--samples", "8")
    index = json.loads((out / "shards.json").read_text())["shards"]
    assert sorted(clip for entry in index.values() for clip in entry["clips"]) == sorted(
        name.split(",")[0] for name in named
    )
    for more in ([], ["--split", "speaker"]):
        args = ["--dataset", "GRID", "--frames", "2", *more, "--data_root"]
        one, other = (build(parse([*args, str(place)]), MODALITIES) for place in (root, pattern(out)))
        for part in ("train", "test"):
            found = [samples(make_loader(getattr(data, part), 6, 0, shuffle=part == "train")) for data in (one, other)]
            assert equal(found[0][0], found[1][0])
            assert part == "train" or found[0][1] == found[1][1]


@pytest.fixture
def few(tmp_path):
    """A small prepared set to break."""
    return make_clips(tmp_path / "few", ("bark", "meow"), fps=1, train=3, test=2)


PACKING = {
    "missing wav": (lambda root: (root / "AudioWAV/train001.wav").unlink(), [], ["missing in", "1: train001.wav"]),
    "wav that is none": (
        lambda root: (root / "AudioWAV/train001.wav").write_text("hello" * 50), [], ["not a sound file"],
    ),
    "empty picture": (
        lambda root: (root / "Image-01-FPS/test002/00001.jpg").write_bytes(b""), [], ["empty", "1: test002"],
    ),
    "no pictures": (lambda root: shutil.rmtree(root / "Image-01-FPS/test002"), [], ["no frames", "1: test002"]),
    "no list": (lambda root: (root / "test.csv").unlink(), [], ["test.csv does not exist"]),
    "path in a list": (lambda root: (root / "test.csv").write_text("../x,bark\n"), [], ["without a path, 1: ../x"]),
    "several rates": (
        lambda root: (root / "Image-25-FPS").mkdir(), [], ["Image-01-FPS, Image-25-FPS", "choose with --fps"],
    ),
    "another rate": (lambda root: None, ["--fps", "3"], ["has Image-01-FPS"]),
    "no samples": (lambda root: None, ["--samples", "0"], ["--samples 0"]),
    "no folder": (shutil.rmtree, [], ["is not a folder"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKING)
def test_what_training_would_refuse_is_not_packed(few, tmp_path, capfd, kind):
    change, more, said = PACKING[kind]
    change(few)
    assert run("--data_root", few, "--out", tmp_path / "out", *more) == 2
    message = capfd.readouterr().err
    assert all(words in message for words in said) and message.startswith("error: ") and message.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def test_one_folder_holds_one_packing(few, tmp_path, capfd):
    out = pack(few, tmp_path / "out")
    before = tree(out)

    def refused(*more):
        assert run("--data_root", few, "--out", out, *more) == 2
        assert "choose another --out" in (message := capfd.readouterr().err.splitlines()[-1])
        assert tree(out) == before
        return message

    refused("--samples", "2")
    lists = (few / "test.csv").read_text()
    (few / "test.csv").write_text(lists.replace("bark", "meow"))
    assert "packed from other files or lists" in refused()
    (few / "test.csv").write_text(lists)
    os.utime(few / "AudioWAV/train001.wav", (1, 1))
    assert "packed from other files" in refused()
    (out / pack_shards.SETTINGS).unlink()
    assert "not packed here, 5: 000.tar, 001.tar, shards.json" in refused()
    with alone(tmp_path / "held"):
        assert run("--data_root", few, "--out", tmp_path / "held") == 2
    assert "another preparation" in capfd.readouterr().err


# Faults


def rewrite(copy, change):
    index = json.loads((copy / "shards.json").read_text())
    change(index)
    (copy / "shards.json").write_text(json.dumps(index))


def elsewhere(copy):
    """The index leads to a file out of the folder, which is a good shard."""
    (copy / "001.tar").rename(copy.parent / "001.tar")
    rewrite(copy, lambda index: index["shards"].update({"../001.tar": index["shards"].pop("001.tar")}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-600])


FAULTS = {
    "a shard is missing": (lambda copy: (copy / "001.tar").unlink(), ["1: {copy}/001.tar is missing", "pack the data"]),
    "two are": (lambda copy: [(copy / f"00{i}.tar").unlink() for i in (1, 3)], ["2: {copy}/001.tar", "{copy}/003.tar"]),
    "a shard is cut": (lambda copy: cut(copy / "005.tar"), ["1: {copy}/005.tar has 2", "in place of 2", "copy it"]),
    "no index": (lambda copy: (copy / "shards.json").unlink(), ["{copy} has no shards.json", "data/pack_shards.py"]),
    "half an index": (lambda copy: cut(copy / "shards.json"), ["{copy}/shards.json cannot be read", "pack the data"]),
    "no index at all": (lambda copy: (copy / "shards.json").write_text("[]"), ["{copy}/shards.json cannot be read"]),
    "an empty index": (lambda copy: rewrite(copy, lambda index: index["shards"].clear()), ["it names no shard"]),
    "an index without numbers": (
        lambda copy: rewrite(copy, lambda index: index["shards"]["002.tar"]["clips"].update(clip00000=["x"])),
        ["{copy}/shards.json cannot be read"],
    ),
    "an index of other data": (
        lambda copy: (copy / "train.csv").write_text((copy / "train.csv").read_text().replace("clip", "film")),
        ["48: film", "in none of these shards", "pack the data again"],
    ),
    "a file of another folder": (elsewhere, ["not in it, 1: 001.tar"]),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_stops_the_run_before_the_first_step(copy, kind):
    change, said = FAULTS[kind]
    root = pattern(copy)
    change(copy)
    with pytest.raises(DataError) as stopped:
        splits(root)
    message = str(stopped.value)
    assert all(words.format(copy=copy) in message for words in said) and "\n" not in message, message


ROOTS = {
    "nowhere/{{0..3}}.tar": ["nowhere has no shards.json", "--data_root"],
    "{copy}/{{000..007}}.tar": ["not in it, 1: 007.tar", "shards.json has 000.tar to 006.tar"],
    "{copy}/*.tar": ["not in it, 1: *.tar"],
    "{copy}/{{000..003}}.tar": [
        "8: clip",
        "in none of these shards",
        "shards.json has 000.tar to 006.tar: name them all",
    ],
    "{copy}/000.tar": ["in none of these shards"],
    "{copy}/{{000..003.tar": ["a brace is not closed"],
    "{{a,b}}/000.tar": ["must be in one folder"],
    "https://example.org/{{000..003}}.tar": ["local or a mounted disk"],
    "pipe:touch {copy}/run; cat {copy}/000.tar": ["local or a mounted disk"],
}


@pytest.mark.parametrize("root", ROOTS)
def test_a_pattern_that_leads_nowhere(copy, root):
    with pytest.raises(DataError) as stopped:
        splits(root.format(copy=copy))
    message = str(stopped.value)
    assert all(words in message for words in ROOTS[root]) and "\n" not in message, message
    assert not (copy / "run").exists()


COMBINATIONS = {
    ("--fps", "25"): "4 frames per second: set --fps 4",
    ("--frames", "5"): "fewer than --frames 5 .*48: clip.* (4)",
    ("--cache", "ram"): "--cache ram is of a folder",
}


@pytest.mark.parametrize("more", COMBINATIONS)
def test_flags_that_do_not_go_with_these_shards(packed, more):
    with pytest.raises(RunError, match=COMBINATIONS[more].replace("(4)", r"\(4\)")):
        splits(pattern(packed), *more)
    if more[0] in ("--fps", "--frames"):  # which the sound does not have
        found = build(parse(flags(pattern(packed), "unused", *more)), ("audio",)).train
        assert found[0][0].keys() == {"audio"}


@pytest.mark.parametrize("words", ["--dataset MOSI --data_root x/{0..3}.tar", "--dataset UCF101 --data_root x/0.tar"])
def test_other_data_sets_are_not_read_from_shards(words, capsys):
    with pytest.raises(SystemExit):
        parse(words.split())
    assert "is not read from shards; name its folder" in capsys.readouterr().err


def test_the_window_is_of_shards(demo, capsys):
    with pytest.raises(SystemExit):
        parse(flags(demo, "unused", "--shuffle_buffer", "9"))
    assert "--shuffle_buffer is of shards" in capsys.readouterr().err


def other_bytes(path):
    held = bytearray(path.read_bytes())
    held[2000] ^= 1
    path.write_bytes(held)


def fewer_frames(path):
    def change(index):
        clips = index["shards"][path.name]["clips"]
        for row in clips.values():
            row[3] = 3

    rewrite(path.parent, change)


LATE = {
    "other bytes": (other_bytes, "but other bytes"),
    "cut": (lambda path: os.truncate(path, 3000), "but ends after 3000 of its"),
    "gone": (Path.unlink, "cannot read .*No such file"),
    "another index": (fewer_frames, "but 5 files"),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", LATE)
def test_bytes_that_change_in_the_course_of_a_run_are_named(copy, kind, workers):
    change, said = LATE[kind]
    path = copy / "002.tar"
    data = splits(pattern(copy)) if kind != "another index" else None
    change(path)
    data = data or splits(pattern(copy))
    message = None
    try:
        list(make_loader(data.train, 4, workers, shuffle=True))
    except DataError as error:
        message = sentence(error)
        error.__traceback__ = None  # so that the workers leave now
    assert message and str(path) in message and "pack the data again" in message and "\n" not in message
    assert re.search(said, message), message


def test_a_run_names_the_fault_and_ends_well(copy, tmp_path, monkeypatch):
    (copy / "004.tar").unlink()
    with pytest.raises(DataError, match="004.tar is missing"):
        program.main(flags(f"{copy}/{{000..006}}.tar", tmp_path, "--method", "joint"))
