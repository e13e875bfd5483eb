"""Tar shards: the same samples as from the folder, in an order that nothing but the seed decides, in flat memory."""

import json
import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from helpers.acting import acting
from helpers.instances import make_clips
from helpers.runs import CLIPS, SMALL, checkpoint, differing, train
from helpers.shards import MODALITIES, TRAIN, WINDOW, equal, pack, pattern, samples, splits
from torch.utils.data import Subset

from dataset import build
from dataset import loader as loading
from dataset.base import below
from dataset.demo import Demo
from dataset.loader import Seeded, make_loader
from dataset.storage import shards, stream
from dataset.storage.stream import Stream
from engine.parser import parse
from methods.valuation import Listed
from utils.distributed import gather as distributed
from utils.errors import RunError


def both(demo, packed, *more, held_out=0.0):
    window = ("--shuffle_buffer", str(WINDOW))
    return splits(demo, *more, held_out=held_out), splits(pattern(packed), *window, *more, held_out=held_out)


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
