"""Decoded clips on disk and on the device: the same samples as from the files, made once, never wrong in silence."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.acting import acting
from helpers.cached import CPU, batches, load
from helpers.meta import META, no_waits
from helpers.runs import checkpoint, rows_of, train
from PIL import Image

from dataset.base import Batch
from dataset.demo import Demo
from dataset.loader import make_loader
from dataset.recipes.frames import normalise, random_boxes
from dataset.recipes.resample import crop, crops
from dataset.storage import files, source, store
from dataset.storage.resident import Resident
from utils.distributed.gather import Share
from utils.errors import CombinationError, DataError, RunError
from utils.stopping import Stopped


@pytest.fixture(autouse=True)
def forget():
    """As a new process: nothing has been opened yet."""
    store.opened.cache_clear()


@pytest.fixture
def root(demo, tmp_path):
    """A copy whose files may change."""
    return shutil.copytree(demo, tmp_path / "demo")


def stores(root):
    return sorted((root / "cache").glob("*-*"))


@pytest.mark.parametrize("size, scale", [((60, 45), (0.08, 1.0)), ((31, 90), (0.5, 1.0)), ((16, 16), (0.2, 0.6))])
@pytest.mark.parametrize("side", [8, 24, 50])
def test_crops_are_pillows_to_the_bit(size, scale, side):
    arrays = np.random.default_rng(0).integers(0, 256, (40, size[1], size[0], 3), dtype=np.uint8)
    arrays[::4] = np.where(arrays[::4] < 128, 0, 255)  # the largest sums
    torch.manual_seed(0)
    boxes = [*random_boxes([size] * 38, scale), (0, 0, *size), (3, 2, 4, 3)]
    expected = torch.stack(
        [
            torch.from_numpy(np.array(Image.fromarray(array).crop(box).resize((side, side), Image.Resampling.BILINEAR)))
            for array, box in zip(arrays, boxes, strict=True)
        ]
    ).permute(0, 3, 1, 2)
    one_by_one = [torch.from_numpy(crop(array, box, side)) for array, box in zip(arrays, boxes, strict=True)]
    assert torch.equal(torch.stack(one_by_one), expected)
    pictures = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    assert torch.equal(crops(pictures, torch.tensor(boxes), side), expected.float())
    outside = torch.ones_like(pictures, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(outside, boxes, strict=True):
        mask[:, top:bottom, left:right] = False
    changed = torch.where(outside, 255 - pictures, pictures)
    assert torch.equal(crops(changed, torch.tensor(boxes), side), expected.float())


def test_a_large_picture_becomes_pillows(side=64):
    array = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    expected = np.array(Image.fromarray(array).resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(crop(array, (0, 0, 1920, 1080), side), expected)
    found = crops(torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0), torch.tensor([[0, 0, 1920, 1080]]), side)
    assert np.array_equal(found[0].numpy(), expected)


@pytest.mark.parametrize("mode, workers", [("ram", 0), ("disk", 0), ("disk", 2), ("device", 0), ("device", 2)])
def test_every_mode_gives_the_same_samples_in_the_same_order(demo, tmp_path, mode, workers):
    options = ["--val_fraction", "0.34", "--train_noise", "audio:snr:3"]
    plain = load(demo, "none", *options, held_out=0.34)
    kept = load(demo, mode, *options, "--workers", str(workers), held_out=0.34, places=tmp_path / "cache")
    for part in ("train", "plain", "held_out", "val", "test"):
        for order in (dict(), dict(seed=1, epoch=3, shuffle=True)):
            ours = batches(getattr(kept, part), workers=workers, **order)
            for one, other in zip(batches(getattr(plain, part), **order), ours, strict=True):
                assert torch.equal(one.index, other.index) and torch.equal(one.target, other.target)
                assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in ("audio", "visual"))


@pytest.mark.parametrize("mode", ["disk", "device"])
def test_the_device_makes_the_inputs_without_a_wait(demo, tmp_path, mode):
    """Once what lies there for the whole run is there: the clips, and the numbers that normalise pictures."""
    batch = next(iter(make_loader(load(demo, mode, places=tmp_path).train, 10, workers=0)))
    batch.to(META)
    with no_waits():
        made = batch.to(META)
    for name, expected in batch.to(CPU).inputs.items():
        assert made.inputs[name].is_meta and made.inputs[name].dtype == expected.dtype == torch.float32
        assert made.inputs[name].shape == expected.shape and made.inputs[name].stride() == expected.stride()


def test_a_second_run_decodes_nothing(demo, tmp_path, monkeypatch):
    load(demo, "disk", places=tmp_path)
    store.opened.cache_clear()

    def never(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(source, "load_frames", never)
    monkeypatch.setattr(type(Demo.audio), "__call__", never)
    for mode in ("disk", "device"):
        assert sum(map(len, batches(load(demo, mode, places=tmp_path).train))) == 48


def test_training_from_a_cache_needs_neither_librosa_nor_a_decoder(demo, tmp_path):
    load(demo, "disk", places=tmp_path)
    program = f"""
import sys
sys.modules["librosa"] = None  # an import of it fails
from PIL import Image
Image.Image.load = None
from helpers.cached import batches, load
from pathlib import Path
for mode in ("disk", "device"):
    print(sum(map(len, batches(load(Path({str(demo)!r}), mode, places={str(tmp_path)!r}).train))))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["48", "48"]


def test_a_cache_of_other_libraries_is_told(demo, tmp_path, monkeypatch, capsys):
    load(demo, "disk", places=tmp_path)
    store.opened.cache_clear()
    assert "warning" not in capsys.readouterr().out
    monkeypatch.setattr(store, "version", lambda name: "0.1")
    load(demo, "disk", places=tmp_path)
    assert "was made with librosa 0.11.0, here is 0.1" in capsys.readouterr().out


def test_modalities_and_parts_share_what_they_have_in_common(root):
    load(root, "disk", modalities=("audio",))
    assert [path.name.split("-")[0] for path in stores(root)] == ["sound", "sound"]  # training and test
    load(root, "disk")
    assert len(stores(root)) == 4
    load(root, "device", "--val_fraction", "0.34", "--image_size", "16", "--frames", "1", held_out=0.34)
    assert len(stores(root)) == 4


def test_other_files_or_another_recipe_are_another_cache(root):
    first = load(root, "disk").train[0][0]
    assert len(stores(root)) == 4
    load(root, "disk", "--train_noise", "audio:snr:3")
    assert len(stores(root)) == 6  # pictures are the same
    clip = (root / "train.csv").read_text().split(",")[0]
    frame = sorted((root / "Image-04-FPS" / clip).iterdir())[0]
    was = frame.stat()
    Image.new("RGB", Image.open(frame).size, (255, 0, 0)).save(frame)
    os.utime(frame, ns=(was.st_mtime_ns, was.st_mtime_ns + 1))
    now = load(root, "disk").train[0][0]
    assert len(stores(root)) == 7
    assert torch.equal(first["audio"], now["audio"]) and not torch.equal(first["visual"], now["visual"])


def test_a_build_that_was_killed_is_gone_on_with(root, monkeypatch):
    decoded = []
    read = source.load_frames

    def dying(files):
        if len(decoded) == 20:
            raise KeyboardInterrupt
        decoded.append(files[0])
        return read(files)

    monkeypatch.setattr(source, "load_frames", dying)
    with pytest.raises(KeyboardInterrupt):
        load(root, "disk")
    (begun,) = (path for path in stores(root) if path.name.startswith("frames"))
    journal = begun / "journal.txt"
    assert not (begun / "index.json").exists() and len(journal.read_text().splitlines()) == 20
    journal.write_text(journal.read_text()[:-3])  # as if killed while it wrote: the 20th does not count
    monkeypatch.setattr(source, "load_frames", lambda files: decoded.append(files[0]) or read(files))
    found = load(root, "disk").train
    assert len(decoded) == 20 + 1 + 28 + 16 and len(set(decoded)) == 64 and not journal.exists()
    for one, other in zip(batches(load(root, "none").train), batches(found), strict=True):
        assert torch.equal(one.inputs["visual"], other.inputs["visual"])


def build_counting(root: Path, log: Path, start) -> None:
    read = source.load_frames

    def counted(files):
        with log.open("a") as file:
            file.write(f"{files[0]}\n")
        return read(files)

    source.load_frames = counted
    start.wait()
    assert len(batches(load(root, "disk").train)) == 5


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}", b'{"dtype": 3}'], ids=repr)
def test_a_damaged_index_is_named(root, content):
    load(root, "disk")
    store.opened.cache_clear()
    (index, *_) = (path / "index.json" for path in stores(root) if path.name.startswith("frames"))
    index.write_bytes(content)
    with pytest.raises(DataError, match=f"cache {index.parent}: index.json is not what was written: delete that"):
        load(root, "disk")


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"a b\n", b"1 2 3\n"], ids=repr)
def test_a_damaged_journal_counts_for_nothing(tmp_path, content):
    journal = tmp_path / "journal.txt"
    journal.write_bytes(b"0 17\n" + content)
    assert store.read_journal(journal) == {} and journal.read_bytes() == b""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_signal_while_it_is_made_stops_the_run_as_everywhere(demo, tmp_path, monkeypatch, workers):
    """Sent to all processes, as Ctrl-C and Slurm do: the workers leave it to the main process."""
    sound, main = files.Files.sound, os.getpid()

    def spoil(self, clip):
        if clip == 20:
            for pid in {os.getpid(), main}:
                os.kill(pid, signal.SIGTERM)
        return sound(self, clip)

    monkeypatch.setattr(files.Files, "sound", spoil)
    words = ["--cache", "disk", "--cache_root", str(tmp_path / "cache"), "--workers", workers, "--epochs", "1"]
    with pytest.raises(Stopped) as stopped:
        train(demo, tmp_path / "out", *words)
    assert stopped.value.status == 143 and str(stopped.value) == "stopped by SIGTERM: go on with --resume"
    assert not list((tmp_path / "cache").rglob("index.json"))
    monkeypatch.undo()
    assert len(rows_of(train(demo, tmp_path / "out", *words, "--resume"))) == 1


def test_several_processes_decode_every_clip_once(root, tmp_path):
    fork = multiprocessing.get_context("fork")
    start, log = fork.Barrier(3), tmp_path / "log"
    processes = [fork.Process(target=build_counting, args=(root, log, start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 64


def flipped(content: bytes) -> bytes:
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


@pytest.mark.parametrize("damage, said", [(flipped, "clip clip"), (lambda c: c[:-1], "cut short"), (None, "missing")])
def test_damage_is_found_and_named_and_mended_by_deletion(root, damage, said):
    load(root, "disk")
    store.opened.cache_clear()
    (broken,) = (p for p in stores(root) if p.name.startswith("frames") and (p / "data.bin").stat().st_size > 4e5)
    data = broken / "data.bin"
    data.write_bytes(damage(data.read_bytes())) if damage else data.unlink()
    with pytest.raises(DataError, match=said) as stopped:
        load(root, "disk")
    assert str(broken) in str(stopped.value) and "delete that folder" in str(stopped.value)
    shutil.rmtree(broken)
    assert len(load(root, "disk").train) == 48


def test_a_disk_that_is_too_small_is_told_before_anything_is_decoded(root, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(source, "load_frames", None)
    with pytest.raises(DataError, match="more, but the disk has 0.00 GB: free the difference, or set --cache_root"):
        load(root, "disk")


def test_a_place_that_cannot_be_written_names_the_remedy(root, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="--cache_root"):
        load(root, "disk", places=tmp_path / "file")


def test_a_clip_that_does_not_decode_is_named_and_the_rest_is_kept(root):
    clip = (root / "train.csv").read_text().splitlines()[30].split(",")[0]
    frame = sorted((root / "Image-04-FPS" / clip).iterdir())[1]
    whole = frame.read_bytes()
    frame.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{clip} does not decode"):
        load(root, "disk")
    assert not any((path / "index.json").exists() for path in stores(root) if path.name.startswith("frames"))


def test_what_does_not_fit_on_the_device_is_refused_with_its_size(root, monkeypatch):
    data = load(root, "device").train
    monkeypatch.setattr(store, "free_memory", lambda device: 1e5)
    with pytest.raises(RunError, match=r"sound-\w+ takes .* GB, cpu has 0.0 GB free: use --cache disk"):
        batches(data)


def test_noise_on_pictures_is_refused_on_the_device_and_kept_on_disk(root):
    noise = ["--train_noise", "visual:gaussian:2"]
    with pytest.raises(CombinationError, match="use disk"):
        load(root, "device", *noise)
    (one, *_), (other, *_) = batches(load(root, "none", *noise).test), batches(load(root, "disk", *noise).test)
    assert torch.equal(one.inputs["visual"], other.inputs["visual"])


def test_pictures_of_different_sizes_lie_side_by_side_on_the_device(tmp_path):
    random = np.random.default_rng(0)
    shapes = [[(9, 7, 3)], [(4, 12, 3), (10, 5, 3)]]
    arrays = [[random.integers(0, 256, shape, dtype=np.uint8) for shape in clip] for clip in shapes]
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.touch()
    made = store.store(
        tmp_path / "cache", "frames", "", ["a", "b"], [[file] for file in files], lambda: shapes,
        arrays.__getitem__, "uint8", 0,
    )  # fmt: skip
    resident = Resident(None, made, 6)
    draws = resident.draws(1, [1, 0], [(1, 2, 5, 9), (0, 0, 12, 4)], torch.tensor([False, False])).unsqueeze(0)
    boxes = [(arrays[1][1], (1, 2, 5, 9)), (arrays[1][0], (0, 0, 12, 4))]
    expected = torch.stack([torch.from_numpy(crop(array, box, 6)) for array, box in boxes]).float()
    assert torch.equal(resident({"visual": draws})["visual"][0], normalise(expected.div_(255)))


def test_a_share_of_a_batch_stays_one_when_its_inputs_are_made():
    batch = Batch(Share({"audio": torch.arange(2)}, total=4), torch.arange(4), torch.arange(4))
    batch.finish = lambda inputs: {name: x * 10 for name, x in inputs.items()}
    moved = batch.to(CPU)
    assert moved.inputs.total == 4 and moved.inputs["audio"].tolist() == [0, 10]


@pytest.mark.parametrize("method", ["inforeg", "relearning"])
def test_a_run_on_each_cache_is_a_run_on_the_files(demo, tmp_path, method):
    argv = acting(method, "--frames", "2", "--epochs", "2")
    if method == "relearning":
        argv += ["--held_out", "0.34"]
    rows = {}
    for mode in ("none", "disk", "device"):
        places = ["--cache", mode, "--cache_root", str(tmp_path / "cache")]
        folder = train(demo, tmp_path / mode, *argv, *places, "--workers", "1" if mode == "device" else "0")
        rows[mode] = rows_of(folder)
        assert checkpoint(folder)["epoch"] == 1
    assert rows["none"] == rows["disk"] == rows["device"]
