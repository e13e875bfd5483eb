"""Tiny instances of the data sets, in the layouts that training reads."""

import csv
import json

import numpy as np
import soundfile
from PIL import Image

from dataset.classes import OBJECTS, VIEWS

UCF_CLASSES = ("ApplyLipstick", "Archery", "HandstandPushups")
UCF_SIZE = (24, 20)


def make_ucf101(root, train=36, test=12, moments=4):
    """Prepared clips of noise; the flow of clip i is i % 3 + 1 pixels to the right and 2 upwards, but for rounding."""
    random = np.random.default_rng(0)
    names = {f"v_Clip_g{i:02d}_c01": UCF_CLASSES[i % 3] for i in range(train + test)}
    for i, name in enumerate(names):
        pictures, flows = (root / f"{kind}-03-FPS" / name for kind in ("Image", "Flow"))
        pictures.mkdir(parents=True)
        flows.mkdir(parents=True)
        width, height = UCF_SIZE
        flow = np.concatenate([np.full((height, width), level(i % 3 + 1)), np.full((height, width), level(-2))])
        for moment in range(1, moments + 1):
            noise = random.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(noise).save(pictures / f"{moment:05d}.jpg")
            Image.fromarray(flow.astype(np.uint8)).save(flows / f"{moment:05d}.png")
    rows = [f"{name},{label}\n" for name, label in names.items()]
    for split in (1, 2, 3):
        first = (split - 1) * test
        (root / f"test{split:02d}.csv").write_text("".join(rows[first : first + test]))
        (root / f"train{split:02d}.csv").write_text("".join(rows[:first] + rows[first + test :]))
    (root / "classInd.txt").write_text("".join(f"{n} {label}\n" for n, label in enumerate(UCF_CLASSES, 1)))
    return root


def level(pixels):
    """How a motion is stored, as data/prepare_ucf101.py says."""
    return 128 + round(pixels * 127 / 20)


def make_hateful_memes(root, train=36, test=12):
    """The published layout; the hateful texts have the word `bad`, the pictures are noise."""
    random = np.random.default_rng(0)
    (root / "img").mkdir(parents=True)
    start = 0
    for name, count in (("train", train), ("dev_seen", test), ("test_seen", test)):
        numbers = range(start, start + count)
        texts = [f"just a {'bad' if n % 2 else 'nice'} meme of number{n}" for n in numbers]
        rows = [
            dict(id=n, img=f"img/{n:05d}.png", label=n % 2, text=text) for n, text in zip(numbers, texts, strict=True)
        ]
        write_rows(root / f"{name}.jsonl", rows)
        for row in rows:
            Image.fromarray(random.integers(0, 256, (20, 28, 3), np.uint8)).save(root / row["img"])
        start += count
    return root


DISHES = ("apple_pie", "beignets", "sushi")


def make_food101(root, counts=(("train", 36), ("test", 12))):
    """Prepared pictures of noise with titles that name the dish."""
    random = np.random.default_rng(0)
    (root / "Text").mkdir(parents=True)
    for part, count in counts:
        rows = [(f"{DISHES[n % 3]}_{part}{n}", DISHES[n % 3]) for n in range(count)]
        for name, label in rows:
            (root / "Image-01-FPS" / name).mkdir(parents=True)
            noise = random.integers(0, 256, (20, 28, 3), np.uint8)
            Image.fromarray(noise).save(root / "Image-01-FPS" / name / "00001.jpg")
            (root / "Text" / f"{name}.txt").write_text(f"How to make {label},\nin ten minutes")
        (root / f"{part}.csv").write_text("".join(f"{name},{label}\n" for name, label in rows))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in DISHES))
    return root


def make_clips(root, classes, fps, train=2, test=1, frames=3, val=0):
    """Prepared audio-visual clips of noise, `train`, `test` and `val` of each class."""
    random = np.random.default_rng(0)
    (root / "AudioWAV").mkdir(parents=True)
    for part, count in (("train", train), ("test", test), *([("val", val)] if val else [])):
        rows = [(f"{part}{i:03d}", classes[i % len(classes)]) for i in range(count * len(classes))]
        for name, _ in rows:
            soundfile.write(root / "AudioWAV" / f"{name}.wav", 0.1 * random.standard_normal(1600), 16000)
            folder = root / f"Image-{fps:02d}-FPS" / name
            folder.mkdir(parents=True)
            for moment in range(1, frames + 1):
                Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{moment:05d}.jpg")
        with (root / f"{part}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    return root


def make_modelnet40(root, train=2, test=1, side=20):
    """Prepared views of noise, the left half of each as bright as the number of the view, and the right half black."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        rows = [(f"{label}_{part}{i}", label) for i in range(count) for label in OBJECTS]
        for name, _ in rows:
            (root / "Image-01-FPS" / name).mkdir(parents=True)
            for view in range(1, VIEWS + 1):
                picture = np.zeros((side, side, 3), np.uint8)
                picture[:, : side // 2] = 20 * view + random.integers(0, 9, (side, side // 2, 1))
                Image.fromarray(picture).save(root / "Image-01-FPS" / name / f"{view:05d}.jpg", quality=95)
        (root / f"{part}.csv").write_text("".join(f"{name},{label}\n" for name, label in rows))
    return root


def make_folder(root, classes=("bark", "meow")):
    make_clips(root, classes, fps=1, train=12, test=6)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return root


SERIES = {"vision": (4, 3), "audio": (5, 2), "text": (3, 6)}  # steps, features
PARTS = {"train": 36, "test": 18, "valid": 12}
SCORES = [-2.0, 0.0, 1.5, -1.0, 0.4, 3.0]  # by sign 2, 1, 3 of six


def make_series(parts=PARTS):
    """The arrays of a series.npz; the last step of the text tells the sign of the score, the rest nothing."""
    draws, arrays = np.random.default_rng(0), {}
    for part, count in parts.items():
        score = np.resize(np.float32(SCORES), count)
        for name, shape in SERIES.items():
            arrays[f"{part}_{name}"] = draws.normal(size=(count, *shape)).astype(np.float32)
        arrays[f"{part}_text"][:, -1] = 3 * np.sign(score)[:, None]
        arrays |= {f"{part}_score": score, f"{part}_id": np.array([f"{part}{i}" for i in range(count)])}
    return arrays


def save_series(root, arrays):
    root.mkdir(exist_ok=True)
    np.savez(root / "series.npz", **arrays)
    return root


FEATURES = {"image": (6,), "speech": (4, 3), "text": (5,)}  # of a sample


def make_features(counts=(("train", 36), ("test", 12))):
    """{split: its arrays}; the vector of the text tells the class of three, the rest nothing."""
    draws, splits = np.random.default_rng(0), {}
    for split, count in counts:
        label = np.arange(count) % 3
        arrays = {name: draws.normal(size=(count, *shape)) for name, shape in FEATURES.items()}
        arrays["text"] = (arrays["text"] / 10 + np.eye(5)[label]).astype(np.float16)
        arrays["image"] = arrays["image"].astype(np.float32)
        splits[split] = arrays | {"label": label, "ids": np.array([f"{split}-{n}" for n in range(count)])}
    splits["train"]["classes"] = np.array(["cat", "dog", "été"])
    return splits


def make_avmnist(root, counts=(("train", 40), ("test", 20))):
    """Prepared pairs of noise."""
    root.mkdir()
    draws = np.random.default_rng(0)
    for split, count in counts:
        image = draws.integers(0, 256, (count, 28, 28), np.uint8)
        audio, ids = draws.normal(3, 2, (count, 12, 10)).astype(np.float32), [f"{split}{n}" for n in range(count)]
        np.savez(root / f"{split}.npz", image=image, audio=audio, label=np.arange(count) % 10, ids=ids)
    return root


def save_features(root, splits):
    root.mkdir(exist_ok=True)
    for split, arrays in splits.items():
        np.savez(root / f"{split}.npz", **arrays)
    return root


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
