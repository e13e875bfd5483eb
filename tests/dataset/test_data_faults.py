"""Faults on disk: each stops the run with one DataError that names what is wrong, how often and where."""

import shutil

import numpy as np
import pytest
import soundfile
from PIL import Image

from dataset import build
from dataset.cremad import CREMAD
from dataset.loader import make_loader
from engine.parser import parse
from utils.errors import DataError, list_names, sentence

CLIPS = [f"clip{number:02d}" for number in range(18)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    (root / "AudioWAV").mkdir()
    rows = [f"{clip},{CREMAD.classes[number % 6]}\n" for number, clip in enumerate(CLIPS)]
    for number, clip in enumerate(CLIPS):
        soundfile.write(root / "AudioWAV" / f"{clip}.wav", np.full(500, 0.1 * (number % 5)), 22050)
        folder = root / "Image-03-FPS" / clip
        folder.mkdir(parents=True)
        for frame in range(3):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{frame}.jpg")
    (root / "train.csv").write_text("".join(rows[:12]))
    (root / "test.csv").write_text("".join(rows[12:]))
    return root


@pytest.fixture
def root(whole, tmp_path):
    """A copy to break."""
    return shutil.copytree(whole, tmp_path / "data")


def load(root, *flags, modalities=("audio", "visual")):
    return build(parse(["--data_root", str(root), "--image_size", "16", *flags]), modalities)


def fault(root, *flags, **options):
    with pytest.raises(DataError) as stopped:
        load(root, *flags, **options)
    message = str(stopped.value)
    assert "\n" not in message
    return message


def test_the_whole_set_is_without_fault(root):
    data = load(root)
    assert (len(data.train), len(data.test)) == (12, 6)


def append(text):
    def change(root):
        with (root / "train.csv").open("a") as file:
            file.write(text)

    return change


SPLIT_FAULTS = {
    "missing": (lambda root: (root / "train.csv").unlink(), ["{root}/train.csv does not exist", "--data_root"]),
    "empty": (lambda root: (root / "test.csv").write_text(""), ["{root}/test.csv is empty"]),
    "blank": (lambda root: (root / "test.csv").write_text("\n\n"), ["{root}/test.csv is empty"]),
    "one field": (append("clip99\n"), ["{root}/train.csv", "clip,label", "1: line 13"]),
    "three fields": (append("clip98,ANG\nclip99,ANG,x\nclip97\n"), ["clip,label", "2: line 14, line 15"]),
    "no clip": (append(",ANG\n"), ["clip,label", "1: line 13"]),
    "a header": (append("clip,label\n"), ["unknown labels, 1: label", ", ".join(CREMAD.classes)]),
    "unknown labels": (append("clip98,XXX\nclip99,YYY\n"), ["{root}/train.csv", "unknown labels, 2: XXX, YYY"]),
    "clip twice": (append("clip03,ANG\nclip03,FEA\n"), ["{root}/train.csv", "more than once, 1: clip03"]),
    "both splits": (append("clip12,NEU\nclip13,HAP\n"), ["both train and test, 2: clip12, clip13"]),
    "not text": (lambda root: (root / "train.csv").write_bytes(b"\xff\xfe\x00"), ["{root}/train.csv", "UTF-8"]),
}


@pytest.mark.parametrize("kind", SPLIT_FAULTS)
def test_a_split_file_with_a_fault(root, kind):
    change, said = SPLIT_FAULTS[kind]
    change(root)
    message = fault(root)
    assert all(words.format(root=root) in message for words in said), message


@pytest.mark.parametrize("name", ["../train", "/etc/passwd", "a/b", "..", ".", "a\\b"])
def test_a_clip_name_that_leads_out_of_the_folder(root, name):
    append(f"{name},ANG\n")(root)
    message = fault(root)
    assert "without a path" in message and f"1: {name}" in message


def wave(clip):
    return f"AudioWAV/{clip}.wav"


def frames(clip):
    return f"Image-03-FPS/{clip}"


FILE_FAULTS = {
    "missing wav": (lambda root: (root / wave("clip04")).unlink(), ["missing in {root}/AudioWAV: 1: clip04.wav"]),
    "no wav at all": (
        lambda root: shutil.rmtree(root / "AudioWAV"),
        ["missing in {root}/AudioWAV: 12: clip00.wav, clip01.wav, clip02.wav, clip03.wav, clip04.wav, ..."],
    ),
    "empty wav": (lambda root: (root / wave("clip04")).write_bytes(b""), ["empty in {root}/AudioWAV: 1: clip04.wav"]),
    "not a wav": (lambda root: (root / wave("clip04")).write_text("hello" * 50), ["not a sound file", "1: clip04.wav"]),
    "wav without samples": (
        lambda root: soundfile.write(root / wave("clip04"), np.zeros(0), 22050),
        ["without samples", "1: clip04.wav"],
    ),
    "cut wav": (
        lambda root: cut(root / wave("clip04")),
        ["truncated in {root}/AudioWAV: 1: clip04.wav", "Prepare these"],
    ),
    "wav of a test clip": (lambda root: (root / wave("clip15")).unlink(), ["1: clip15.wav"]),
    "missing frame folder": (
        lambda root: shutil.rmtree(root / frames("clip05")),
        ["frame folders missing in {root}/Image-03-FPS: 1: clip05"],
    ),
    "too few frames": (
        lambda root: (root / frames("clip05") / "1.jpg").unlink(),
        ["fewer than --frames 3 in {root}/Image-03-FPS: 1: clip05 (2)"],
    ),
    "empty jpg": (
        lambda root: (root / frames("clip05") / "1.jpg").write_bytes(b""),
        ["empty frame files in {root}/Image-03-FPS: 1: clip05"],
    ),
    "jpg that leads nowhere": (
        lambda root: (
            (root / frames("clip05") / "1.jpg").unlink(),
            (root / frames("clip05") / "1.jpg").symlink_to("x"),
        ),
        ["frames that are no files in {root}/Image-03-FPS: 1: clip05"],
    ),
    "folder named like a jpg": (
        lambda root: (root / frames("clip05") / "3.jpg").mkdir(),
        ["frames that are no files in {root}/Image-03-FPS: 1: clip05"],
    ),
    "empty frame folder": (
        lambda root: [file.unlink() for file in (root / frames("clip05")).iterdir()],
        ["fewer than --frames 3", "clip05 (0)"],
    ),
}


@pytest.mark.parametrize("kind", FILE_FAULTS)
def test_a_file_with_a_fault(root, kind):
    change, said = FILE_FAULTS[kind]
    change(root)
    message = fault(root)
    assert all(words.format(root=root) in message for words in said), message


def test_all_faults_are_named_at_once(root):
    for change, _ in (FILE_FAULTS[kind] for kind in ("missing wav", "missing frame folder")):
        change(root)
    (root / wave("clip06")).write_bytes(b"")
    message = fault(root)
    assert all(words in message for words in ("1: clip04.wav", "1: clip05", "1: clip06.wav")), message


def test_only_the_modalities_in_use_are_checked(root):
    shutil.rmtree(root / "Image-03-FPS")
    assert load(root, modalities=("audio",)).train[0][0].keys() == {"audio"}
    with pytest.raises(DataError):
        load(root, modalities=("visual",))


def test_more_than_five_names_are_abbreviated(root):
    for clip in CLIPS[:7]:
        (root / wave(clip)).unlink()
    message = fault(root)
    assert "7: clip00.wav, clip01.wav, clip02.wav, clip03.wav, clip04.wav, ..." in message
    assert "clip05" not in message and "clip06" not in message
    assert list_names(["a"] * 5) == "5: a, a, a, a, a"


def test_a_wrong_fps_names_the_folder_that_exists(root):
    message = fault(root, "--fps", "25")
    assert "Image-25-FPS" in message and "Image-03-FPS" in message and "--fps" in message


def test_a_missing_data_root(tmp_path):
    message = fault(tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'} does not exist" in message and "--data_root" in message


def test_more_frames_wanted_than_there_are(root):
    assert "fewer than --frames 4" in (message := fault(root, "--frames", "4")) and "12: clip00 (3)" in message
    assert "a smaller --frames" in message and "--min_frames 4 --allow_missing" in message


def undecodable(root):
    return {
        "text in a jpg": lambda: (root / frames("clip07") / "1.jpg").write_text("no picture"),
        "cut jpg": lambda: cut(root / frames("clip07") / "1.jpg"),
        "NaN in a wav": lambda: soundfile.write(root / wave("clip07"), np.full(500, np.nan), 22050, subtype="FLOAT"),
    }


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("kind", undecodable(None))
@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_does_not_decode_names_its_clip(root, kind, workers):
    undecodable(root)[kind]()
    train = load(root).train  # headers and sizes are well, so this passes
    message = None
    try:
        list(make_loader(train, 4, workers))
    except DataError as error:
        message = sentence(error)
        # The traceback and the error hold each other and the loader, whose workers leave only slowly when that cycle
        # is collected; without it they leave now.
        error.__traceback__ = None
    assert message.startswith("clip clip07 does not decode") and "\n" not in message and "Traceback" not in message
