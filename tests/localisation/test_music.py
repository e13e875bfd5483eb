"""MUSIC and its mosaics as they are read, of prepared files of known colours and tones."""

import json
from argparse import ArgumentParser, Namespace

import librosa
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from dataset.classes import INSTRUMENTS
from dataset.loader import make_loader
from dataset.recipes.frames import imagenet
from localisation import mosaics, seconds
from localisation.data import Pairs
from localisation.registry import LOCALISATION
from utils.errors import DataError

SOLOS = {"train": range(6), "test": range(6, 11)}  # a video of each of these instruments
DUETS = {"train": "flute violin", "test": "violin cello"}
SECONDS = 2
BOX = [0.25, 0.5, 0.5, 0.25]


def level(video, frame):
    """The grey level of a frame (from 1) of a video."""
    return 20 + 14 * video + 2 * frame


def write_video(root, name, video):
    time = np.arange(SECONDS * 16000 + 4000) / 16000
    tone = 0.05 * (1 + time) * np.sin(2 * np.pi * 500 * (1 + video) * time)  # no second like another
    soundfile.write(root / "AudioWAV" / f"{name}.wav", tone, 16000)
    folder = root / "Image-04-FPS" / name
    folder.mkdir(parents=True)
    for frame in range(1, 4 * SECONDS + 2):
        Image.new("RGB", (24, 16), (level(video, frame),) * 3).save(folder / f"{frame:05d}.jpg", quality=95)


def make(root):
    (root / "AudioWAV").mkdir(parents=True)
    boxes = {}
    for part, numbers in SOLOS.items():
        rows = []
        for number in numbers:
            write_video(root, f"{part}{number}", number)
            rows.append(f"{part}{number},{INSTRUMENTS[number]}\n")
            if part == "test":
                boxes[f"test{number}"] = {
                    "4": [[INSTRUMENTS[number], *BOX]],
                    "6": [],
                    "99": [[INSTRUMENTS[number], *BOX]],
                }
        for kind in ("solo", "synthetic"):
            (root / f"{part}_{kind}.csv").write_text("".join(rows))
    for part, label in DUETS.items():
        write_video(root, f"duet_{part}", 0)
        (root / f"{part}_duet.csv").write_text(f"duet_{part},{label}\n")
    boxes["duet_test"] = {"5": [["violin", *BOX], ["cello", 0.0, 0.0, 0.2, 0.2]]}
    (root / "boxes.json").write_text(json.dumps(boxes))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data") / "music")


def flags(root, **changes):
    parser = ArgumentParser()
    LOCALISATION["MUSIC"].add_args(parser)
    return Namespace(**vars(parser.parse_args([])) | {"data_root": str(root), "image_size": 16} | changes)


def load(root, kind, part, **changes):
    """kind: solo, or that of mixed clips."""
    if kind == "solo":
        return LOCALISATION["MUSIC"].solo(flags(root, **changes), part)
    return LOCALISATION["MUSIC"].mixed(flags(root, mixed=kind, **changes), part)


def grey(frame):
    """The mean grey level of a normalised frame."""
    mean, std = imagenet(frame.device)
    return float((frame * std + mean).mean() * 255)


def test_the_instruments_are_eleven_by_the_alphabet():
    assert len(INSTRUMENTS) == 11 and list(INSTRUMENTS) == sorted(INSTRUMENTS)
    assert LOCALISATION["MUSIC"].categories(None) == INSTRUMENTS and LOCALISATION["MUSIC"].defaults["clusters"] == 11


def test_training_has_every_whole_second(root):
    solo = load(root, "solo", "train")
    assert solo.videos.tolist() == [v for v in range(6) for _ in range(SECONDS)]
    assert solo.labels.tolist() == solo.videos.tolist()
    inputs, label, position = solo[3]
    assert inputs["audio"].shape == (1, 201, 64) and inputs["visual"].shape == (3, 16, 16)
    assert (label, position) == (0, 3) and solo.objects(3) == () and solo.ratio == 0.1
    duet = load(root, "duet", "train")
    assert len(duet) == SECONDS and duet.labels is None and duet.objects(0) == () and duet.ratio == 0.2


def test_a_second_needs_both_sound_and_four_frames(tmp_path):
    root = make(tmp_path / "data")
    soundfile.write(root / "AudioWAV" / "train0.wav", np.full(31999, 0.1), 16000)
    for frame in range(8, 10):
        (root / "Image-04-FPS" / "train1" / f"{frame:05d}.jpg").unlink()
    assert load(root, "solo", "train").videos.tolist() == [0, 1, *(v for v in range(2, 6) for _ in range(SECONDS))]


def test_the_spectrogram_is_the_public_codes():
    wave = 0.3 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    wave[8000:] *= 1e-6
    magnitude = np.abs(librosa.stft(wave, n_fft=160, hop_length=80, window="hann", center=True))
    with pytest.warns(UserWarning, match="Empty filters"):  # of two of the bands
        bands = librosa.filters.mel(sr=16000, n_fft=160, n_mels=64, fmax=8000)
    assert (bands.max(axis=1) == 0).sum() == 2
    expected = librosa.power_to_db(bands @ magnitude, ref=1.0, amin=1e-10, top_db=80)
    assert np.ptp(expected) == pytest.approx(80, abs=1e-3)
    assert np.allclose(seconds.log_mel(wave)[0].T, expected, atol=1e-4)
    assert seconds.log_mel(np.zeros(16000, np.float32)).unique().tolist() == pytest.approx([-100])


def test_a_second_has_its_own_sound_and_frames(root):
    solo = load(root, "solo", "train").plain()
    frequency = np.fft.rfftfreq(16000, 1 / 16000)
    for position in (0, 3, 10):
        video, second = divmod(position, SECONDS)
        spectrum = np.abs(np.fft.rfft(solo.wave(position)))
        assert frequency[spectrum.argmax()] == 500 * (1 + video)
        assert grey(solo.frame(position)) == pytest.approx(level(video, 4 * second + 3), abs=1.5)
    whole, rate = soundfile.read(root / "AudioWAV" / "train1.wav", dtype="float32")
    assert np.array_equal(solo.wave(3), whole[16000:32000]) and rate == 16000


def test_training_draws_any_frame_of_the_second_and_changes_it(root):
    solo, duet = load(root, "solo", "train"), load(root, "duet", "train")
    torch.manual_seed(0)
    found = {round(grey(duet.frame(1))) for _ in range(40)}
    assert all(min(abs(value - level(0, frame)) for frame in range(5, 9)) < 1.5 for value in found) and len(found) == 4
    drawn = [grey(solo.frame(6)) for _ in range(40)]  # video 3, second 0
    assert 0.65 * level(3, 1) < min(drawn) < 0.8 * level(3, 4) and 1.2 * level(3, 1) < max(drawn) < 1.35 * level(3, 4)
    torch.manual_seed(5)
    one = solo.frame(6)
    torch.manual_seed(5)
    assert torch.equal(one, solo.frame(6))


def test_a_training_frame_is_a_crop_of_a_larger_one_mirrored_or_not(monkeypatch):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    for draws, mirrored, place in (
        ([0.9, 0.5, 0.5, 0.0, 0.0], False, (0, 0)),
        ([0.1, 0.5, 0.5, 0.999, 0.5], True, (2, 1)),
    ):
        monkeypatch.setattr(torch, "rand", lambda *_, draws=draws: torch.tensor(draws))
        larger = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
        larger = np.asarray(larger.resize((16, 16), Image.Resampling.BILINEAR))
        left, top = place
        mean, std = imagenet(torch.device("cpu"))
        found = (seconds.augment(image, 14) * std + mean).permute(1, 2, 0) * 255
        assert np.abs(found.numpy() - larger[top : top + 14, left : left + 14]).max() < 1.5  # factors of 1


def test_brightness_and_colour_are_changed_each_for_itself(monkeypatch):
    image = Image.new("RGB", (8, 8), (100, 60, 20))
    grey_of = 0.299 * 100 + 0.587 * 60 + 0.114 * 20
    mean, std = imagenet(torch.device("cpu"))
    for brightness, colour in ((0.0, 0.5), (0.5, 1.0)):
        monkeypatch.setattr(torch, "rand", lambda *_, b=brightness, c=colour: torch.tensor([0.9, b, c, 0.0, 0.0]))
        found = ((seconds.augment(image, 7) * std + mean) * 255)[:, 3, 3]
        factors = [0.7 + 0.6 * drawn for drawn in (brightness, colour)]
        expected = [factors[0] * (grey_of + factors[1] * (value - grey_of)) for value in (100, 60, 20)]
        assert np.allclose(found, expected, atol=2)


def test_tests_have_the_frames_with_boxes_that_are_there(root):
    solo = load(root, "solo", "test")
    assert [(item.frame, item.second) for item in solo.items] == [(4, 0), (6, 1)] * 5  # 99 lies after the end
    (item,) = solo.objects(4)
    assert (item.category, item.box, item.sounding) == (8, tuple(BOX), True) and solo.objects(5) == ()
    assert grey(solo.frame(4)) == pytest.approx(level(8, 4), abs=1.5)
    assert np.array_equal(
        solo.wave(5), soundfile.read(root / "AudioWAV" / "test8.wav", dtype="float32")[0][16000:32000]
    )
    duet = load(root, "duet", "test")
    assert [(o.category, o.sounding) for o in duet.objects(0)] == [(9, True), (2, True)] and len(duet) == 1


def test_pairs_of_seconds_take_the_frame_of_another_video(root):
    batch = next(iter(make_loader(Pairs(load(root, "solo", "train").plain()), 12, 0)))
    assert all(torch.equal(batch.inputs[name].isfinite().all(), torch.tensor(True)) for name in batch.inputs)
    own, other = (torch.tensor([grey(frame) for frame in batch.inputs[name]]) for name in ("visual", "other"))
    assert (own - other).abs().min() > 1.5


def test_a_mosaic_has_four_instruments_of_which_two_sound(root):
    made = load(root, "synthetic", "test", mosaics=160)
    assert len(made) == 40 and made.labels is None and made.ratio == 0.5
    frequency, places = np.fft.rfftfreq(16000, 1 / 16000), np.zeros(4)
    for position, (parts, sounding, gains) in enumerate(made.mosaics):
        items = made.objects(position)
        assert len({item.category for item in items}) == 4 and len(items) == 4
        assert [item.sounding for item in items] == [place in sounding for place in range(4)] and len(
            set(sounding)
        ) == 2
        frame = made.frame(position)
        for place, (item, part) in enumerate(zip(items, parts, strict=True)):
            row, column = divmod(place, 2)
            quarter = frame[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert grey(quarter) == pytest.approx(level(item.category, 4), abs=1.5)
            assert item.box == ((column + 0.25) / 2, (row + 0.5) / 2, 0.25, 0.125)
            assert made.solos.items[part].frame == 4  # the frames without boxes show nothing to measure
        heard = [gain * made.solos.wave(parts[place]) for place, gain in zip(sounding, gains, strict=True)]
        expected = seconds.log_mel(np.float32(heard[0] + heard[1]) / 2)
        assert (made.sound(position) - expected).abs().mean() < 0.05  # in silence it is all rounding
        peaks = frequency[np.argsort(np.abs(np.fft.rfft(heard[0] + heard[1])))[-2:]]
        assert sorted(peaks) == sorted(500.0 * (1 + items[place].category) for place in sounding)
        places[list(sounding)] += 1
        assert all(0.5 < gain < 2 for gain in gains)
    assert places.min() > 10  # any place sounds


def test_mosaics_depend_on_seed_part_and_number_alone(root, monkeypatch):
    def make(part="train", **changes):
        return load(root, "synthetic", part, **{"mosaics": 4} | changes)

    one = make()
    assert one.mosaics == make(mosaics=6).mosaics[:4] and one.mosaics != make(mosaic_seed=1).mosaics
    assert one.objects(0) == () and len(make("test")) == 1 and len(set(one.mosaics)) == 4
    assert torch.equal(one[2][0]["visual"], one[2][0]["visual"])
    monkeypatch.setattr(mosaics, "draw", lambda _, random: random.random())
    drawn = [make(part, mosaic_seed=seed).mosaics[0] for part in ("train", "test") for seed in (0, 1)]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("size", [15, 16, 18])
def test_a_mosaic_needs_an_even_size(size):
    said = LOCALISATION["MUSIC"].refusal(Namespace(image_size=size, mixed="synthetic"))
    assert (said is None) == (size > 15) and (size > 15 or "--image_size 15" in said)
    assert LOCALISATION["MUSIC"].refusal(Namespace(image_size=size, mixed="duet")) is None


@pytest.mark.parametrize("mixed", ["synthetic", "duet"])
def test_the_files_that_say_which_clips_there_are(root, mixed):
    files = LOCALISATION["MUSIC"].files(flags(root, mixed=mixed))
    names = [f"{part}_{kind}.csv" for kind in ("solo", mixed) for part in ("train", "test")]
    assert [file.name for file in files] == [*names, "boxes.json"] and all(file.is_file() for file in files)


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-20000])


def box(frame="3", *place):
    return lambda root: (root / "boxes.json").write_text(json.dumps({"test6": {frame: [["cello", *place]]}}))


FAULTS = {
    "cut sound": (lambda root: cut(root / "AudioWAV" / "train2.wav"), r"1: train2 .sound: truncated"),
    "gap": (lambda root: remove(root / "Image-04-FPS/test7/00002.jpg"), r"1: test7 .frames: not 00001.jpg, .* a gap"),
    "box that is NaN": (box("3", float("nan"), 0, 1, 1), "boxes.json is not what .*nan"),
    "box outside": (box("3", -0.1, 0, 1, 1), "boxes.json is not what .*-0.1.* in shares of the frame"),
    "box too high": (box("3", 0, 0, 1, 50), "boxes.json is not what .*50"),
    "box that is true": (box("3", 0, 0, True, 1), "boxes.json is not what .*True"),
    "box of more than a double": (box("3", 0, 0, 10**400, 1), "boxes.json is not what .*too large"),
    "deep": (lambda root: (root / "boxes.json").write_text("[" * 100000), "boxes.json is not what .*recursion"),
    "frame 0": (box("0", 0, 0, 1, 1), "boxes.json is not what .*'0' is no number of a frame"),
    "frame with a blank": (box(" 3", 0, 0, 1, 1), "boxes.json is not what .*' 3' is no number"),
    "no sound": (lambda root: remove(root / "AudioWAV" / "train2.wav"), "lacks sound or frames .* 1: train2"),
    "no frames": (
        lambda root: (root / "Image-04-FPS/train2").rename(root / "gone"),
        "lacks sound or frames .* 1: train2",
    ),
    "rate": (lambda root: soundfile.write(root / "AudioWAV/train2.wav", np.zeros(9000), 8000), "lacks sound or frames"),
    "no list": (lambda root: remove(root / "test_solo.csv"), "test_solo.csv does not exist"),
    "both": (
        lambda root: (root / "test_solo.csv").write_text("train1,cello\n"),
        "both train_solo.csv and test_solo.csv",
    ),
    "label": (lambda root: (root / "test_solo.csv").write_text("test7,kazoo\n"), "unknown labels, 1: kazoo"),
    "boxes": (
        lambda root: (root / "boxes.json").write_text('{"test6": {"3": [["cello", 1]]}}'),
        "boxes.json is not what",
    ),
    "no boxes": (
        lambda root: (root / "boxes.json").write_text("{}"),
        "no video of test_solo.csv has a frame with boxes",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_wrong_is_named(tmp_path, kind):
    change, said = FAULTS[kind]
    root = make(tmp_path / "data")
    change(root)
    with pytest.raises(DataError, match=said):
        [load(root, "solo", part) for part in ("train", "test")]


def test_a_file_that_breaks_later_is_named(tmp_path):
    root = make(tmp_path / "data")
    solo = load(root, "solo", "train").plain()
    (root / "Image-04-FPS" / "train0" / "00003.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="train0/00003.jpg cannot be read"):
        solo.frame(0)
    (root / "AudioWAV" / "train0.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match="train0.wav cannot be read"):
        solo.sound(0)


@pytest.mark.parametrize("scale, said", [(1.0, None), (32767, "reach .* where 1 is full"), (np.nan, "NaN or infinite")])
def test_sound_is_read_as_that_of_all_data_sets(tmp_path, scale, said):
    root = make(tmp_path / "data")
    path = root / "AudioWAV" / "train0.wav"
    both = np.random.default_rng(0).uniform(-1, 1, (32000, 2)) * scale
    soundfile.write(path, both, 16000, "FLOAT")
    solo = load(root, "solo", "train")
    if said:
        with pytest.raises(DataError, match=f"train0.wav cannot be read .*{said}.*: prepare the data again"):
            solo.sound(1)
    else:
        assert np.allclose(solo.wave(1), both[16000:].mean(axis=1), atol=1e-6)


def test_too_few_instruments_make_no_mosaic(tmp_path):
    root = make(tmp_path / "data")
    (root / "boxes.json").write_text(json.dumps({f"test{k}": {"4": [[INSTRUMENTS[k], *BOX]]} for k in (6, 7, 8)}))
    with pytest.raises(DataError, match="four instruments with boxes, and test_synthetic.csv has 3: saxophone"):
        load(root, "synthetic", "test")
