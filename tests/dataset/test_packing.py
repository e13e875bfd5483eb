"""Packing: shards that any reader of WebDataset finds files in, always the same, after a kill, too; and refusals."""

import json
import os
import shutil
import signal
import zlib

import pack_shards
import pytest
import webdataset
from helpers.instances import make_clips
from helpers.runs import CLIPS, flags
from helpers.shards import MODALITIES, equal, pack, pattern, run, samples, splits, tree

from dataset import build, checksums
from dataset.classes import WORDS
from dataset.loader import make_loader
from dataset.prepare.run import alone
from engine.parser import parse
from utils.errors import DataError


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
    "cut wav": (
        lambda root: (path := root / "AudioWAV/test001.wav").write_bytes(path.read_bytes()[:1044]),
        [], ["truncated in", "1: test001.wav"],
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
