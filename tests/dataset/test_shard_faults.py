"""What is wrong with shards stops a run before its first step, or where it is read, in one sentence."""

import json
import os
import re
from pathlib import Path

import pytest
from helpers.runs import flags
from helpers.shards import pattern, splits

import main as program
from dataset import build
from dataset.loader import make_loader
from engine.parser import parse
from utils.errors import DataError, RunError, sentence


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
