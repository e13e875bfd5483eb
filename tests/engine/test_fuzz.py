"""Anything in, never nonsense out: properties that hold for whatever a person or a broken file gives.

HYPOTHESIS_PROFILE=long tries 1000 cases of each property in place of 60, and others each time.
"""

import csv
import io
import math
import os
import pickle
import struct
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset import DATASETS
from dataset.recipes.audio import LOUDEST, Filterbank, LogSpectrogram, wave_fault
from dataset.recipes.frames import (
    FrameTransform,
    even_frames,
    load_frames,
    random_boxes,
    random_frames,
    segment_frames,
)
from dataset.recipes.pictures import size_of
from dataset.recipes.resample import crop
from dataset.splits import read_split
from dataset.storage.source import naming
from engine.parser import make_parser, parse
from inforeg.regulation import InfoReg, leads, scores
from inforeg.window import WINDOWS, PrimeWindow
from methods import METHODS
from scripts.results.tables import Line, Table, as_csv, grid, latex, markdown
from utils.errors import DataError, RunError
from utils.runs.checkpoint import load_checkpoint
from utils.runs.setting import options_of

here = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.register_profile("default", here, derandomize=True, max_examples=60)
settings.register_profile("long", here, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

CLASSES = ("NEU", "HAP", "SAD")
FINITE = st.floats(allow_nan=False, allow_infinity=False)
NO_SPACE = ("Cs", "Zs", "Zl", "Zp", "Cc")  # categories of Unicode
NAME = st.text(st.characters(exclude_characters='/\\,"', exclude_categories=NO_SPACE), min_size=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file"


# --- The split reader


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))))
@example(b'"a,NEU\n')
@example(b"\xef\xbb\xbfa,NEU\r\n")
@example(b"a\0,NEU")
@example(b"../a,NEU")
def test_a_split_of_any_bytes_is_read_or_refused_in_one_sentence(file, content):
    file.write_bytes(content)
    try:
        rows = read_split(file, CLASSES)
    except DataError as error:
        assert str(file) in str(error)
        return
    assert rows and max(Counter(clip for clip, _ in rows).values()) == 1
    for clip, number in rows:
        assert number in range(3) and clip == clip.strip() and clip not in ("", ".", "..")
        assert not set("/\\\0") & set(clip) and Path("root", clip).parent == Path("root")


@given(st.lists(st.tuples(NAME, st.sampled_from(CLASSES)), min_size=1, unique_by=lambda row: row[0]))
def test_a_good_split_is_read_as_it_was_written(file, rows):
    assume(not {".", ".."} & {clip for clip, _ in rows} and not any(clip.startswith("\ufeff") for clip, _ in rows))
    file.write_text("".join(f"{clip},{label}\n" for clip, label in rows), encoding="utf-8")
    assert read_split(file, CLASSES) == [(clip, CLASSES.index(label)) for clip, label in rows]


# --- The command line

FLAGS = sorted({flag for name in METHODS for flag in options_of(make_parser("CREMAD", name))})
VALUES = [
    "0",
    "1",
    "-1",
    "0.5",
    "1e309",
    "nan",
    "none",
    "sum",
    "inforeg",
    "joint",
    "audio",
    "",
    "a/b",
    "..",
    "visual:shot:1",
]
WORD = st.one_of(st.sampled_from(FLAGS), st.sampled_from(VALUES), st.text(max_size=8))


PAIRS = st.lists(st.tuples(st.sampled_from(FLAGS), WORD), max_size=4)


@given(st.sampled_from(list(DATASETS)), st.sampled_from(list(METHODS)), PAIRS, st.lists(WORD, max_size=2))
def test_any_words_are_a_command_line_or_end_with_usage(capsys, dataset, method, pairs, more):
    words = ["--dataset", dataset, "--method", method, *(word for pair in pairs for word in pair), *more]
    try:
        args = parse(words)
    except SystemExit as stopped:
        said = capsys.readouterr()
        assert stopped.code == 0 and said.out or stopped.code == 2 and "error: " in said.err
        return
    assert args.tag and "/" not in args.tag and not args.tag.startswith(".")
    numbers = [value for value in vars(args).values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers)) and args.epochs > 0 and args.batch_size > 0 and args.lr > 0


# --- Sound

RECIPES = (
    LogSpectrogram(sample_rate=16000, seconds=0.64, n_fft=512, hop=400, mels=40),
    LogSpectrogram(sample_rate=22050, seconds=1.0, n_fft=512, hop=353),
    Filterbank(frames=32),
)


@given(
    st.sampled_from(RECIPES), st.sampled_from([8000, 16000, 22050, 44100]), st.integers(1, 3), st.integers(1, 9000),
    st.sampled_from([0.0, 1e-30, 1.0, 1e3, 3e38]), st.integers(0, 9),
)  # fmt: skip
def test_any_finite_sound_becomes_a_finite_picture(file, recipe, rate, channels, count, level, seed):
    wave = np.random.default_rng(seed).uniform(-1, 1, (count, channels)).astype(np.float32) * np.float32(level)
    soundfile.write(file, wave, rate, "FLOAT", format="WAV")
    assert wave_fault(file) is None
    try:
        with naming("clip"):
            found = recipe(file)
    except DataError as error:
        assert isinstance(recipe, Filterbank) and "25 ms" in str(error) or level > LOUDEST
        return
    assert found.shape == recipe.shape and found.dtype == torch.float32 and found.isfinite().all()


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"RIFF\xff\xff\xff\x7fWAVEfmt ", b"fLaC", b"OggS", b"FORM", b".snd"])
)
def test_bytes_that_are_no_sound_are_refused(file, content, head):
    file.write_bytes(head + content)
    if wave_fault(file):
        return
    try:
        with naming("clip"):
            assert RECIPES[0](file).isfinite().all()
    except DataError as error:
        assert "clip" in str(error)


def test_a_sound_whose_header_claims_gigabytes_is_refused_before_they_are_asked_for(file):
    samples = 2**36 - 1
    where = (16000 << 44) | (0 << 41) | (15 << 36) | samples  # rate, channels - 1, bits - 1, samples
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + struct.pack(">Q", where) + bytes(16)
    file.write_bytes(b"fLaC\x80" + len(info).to_bytes(3, "big") + info)
    with pytest.raises(DataError, match=f"clip does not decode .its header claims {samples} samples of 1 channels"):
        with naming("clip"):
            RECIPES[0](file)


# --- Pictures


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=4), st.floats(0.01, 1.0),
    st.integers(0, 2**40),
)  # fmt: skip
def test_crops_lie_in_their_pictures(sizes, least, seed):
    torch.manual_seed(seed)
    for (width, height), (left, top, right, bottom) in zip(sizes, random_boxes(sizes, (least, 1.0)), strict=True):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**40))
def test_frames_are_in_order_and_of_the_clip(available, wanted, seed):
    torch.manual_seed(seed)
    wanted = min(available, wanted)
    for choice in (random_frames, segment_frames, even_frames):
        chosen = choice(available, wanted)
        assert len(set(chosen)) == wanted and chosen == sorted(chosen) and set(chosen) <= set(range(available))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.tuples(*[st.floats(0, 1)] * 4), st.integers(0, 9))
def test_a_crop_of_an_array_is_pillows(width, height, size, places, seed):
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    left, right = sorted(round(x * (width - 1)) for x in places[:2])
    top, bottom = sorted(round(y * (height - 1)) for y in places[2:])
    box = left, top, right + 1, bottom + 1
    pillows = Image.fromarray(array).crop(box).resize((size, size), Image.Resampling.BILINEAR)
    assert np.array_equal(crop(array, box, size), np.asarray(pillows).transpose(2, 0, 1))


MODES, FORMS = ["L", "RGB", "RGBA", "P", "CMYK", "1", "I;16"], ["png", "jpeg", "gif", "tiff", "webp", "bmp"]


@given(st.sampled_from(MODES), st.sampled_from(FORMS), st.integers(1, 20), st.integers(1, 20))
def test_pictures_of_any_kind_are_read_as_rgb(file, mode, form, width, height):
    assume((mode, form) != ("P", "bmp"))  # Pillow 11 does not read what it writes
    try:
        Image.new(mode, (width, height)).save(file, form)
    except (OSError, ValueError):  # a kind that the format does not have
        assume(False)
    frames = FrameTransform(16, train=True, crop_scale=(0.1, 1.0), flip=True)(load_frames([file]))
    assert frames.shape == (1, 3, 16, 16) and frames.isfinite().all() and size_of(file) == (width, height)


@given(st.sampled_from(FORMS), st.data())
def test_a_damaged_picture_is_read_or_refused_by_the_clips_name(file, form, data):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(content, form)
    damaged = bytearray(content.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        with naming("clip"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_frames([file])
    except DataError as error:
        assert str(error).startswith("clip clip does not decode")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_whose_header_claims_gigabytes_is_refused_before_they_are_asked_for(file, side):
    content = io.BytesIO()
    Image.new("RGB", (7, 7)).save(content, "jpeg")
    marker = content.getvalue().index(b"\xff\xc0")
    file.write_bytes(
        content.getvalue()[: marker + 5] + struct.pack(">HH", side, side) + content.getvalue()[marker + 9 :]
    )
    for read in (lambda: load_frames([file]), lambda: size_of(file)):
        with pytest.raises(DataError, match="clip does not decode"), naming("clip"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()


# --- Checkpoints


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_a_checkpoint_that_would_execute_something_is_refused_and_does_not(tmp_path, save):
    executed = tmp_path / "executed"
    save({"model": Hostile(executed), "args": {}, "epoch": 0}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="last.pt"):
        load_checkpoint(tmp_path / "last.pt")
    assert not executed.exists()
    torch.load(tmp_path / "last.pt", weights_only=False) if save is torch.save else pickle.loads(
        (tmp_path / "last.pt").read_bytes()
    )
    assert executed.exists()  # it would have


# --- The window and the regulation

TRACES = st.lists(st.floats(0, allow_infinity=False), max_size=6)


@given(TRACES, TRACES, st.floats(-2, 2), st.integers(1, 4), st.integers(0, 4), st.sampled_from(list(WINDOWS)))
@example([1e300, 5e-324], [], 0.04, 1, 0, "paper")
@example([1.7e308, 1.7e308, 1.7e308], [], 0.04, 2, 0, "paper")
def test_any_traces_give_a_finite_change_and_a_decision(audio, visual, threshold, smoothing, start, rule):
    length = min(len(audio), len(visual))
    history = {"audio": audio[:length] if visual else audio, "visual": visual[:length] if visual else audio}
    window = PrimeWindow(history, threshold, None if rule == "accumulated" else smoothing, start, rule)
    for name in history:
        change, is_open = window.change(name), window.is_open(name)
        assert change is None or math.isfinite(change) and change <= 1
        assert is_open in (True, False) and (not is_open or window.epoch >= start and change > threshold)
        assert window.admits(name, "all") and window.admits(name, "prime") != window.admits(name, "outside")


@given(st.lists(FINITE.filter(lambda x: abs(x) < 1e300), min_size=1, max_size=6))
def test_leads_are_finite_and_not_negative_and_the_last_has_none(score):
    found = leads(torch.tensor(score, dtype=torch.float64))
    assert found.isfinite().all() and (found >= 0).all() and found[int(np.argmin(score))] == 0


@given(
    st.lists(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=6, max_size=6), min_size=2, max_size=4),
    st.floats(0, 5), st.sampled_from(["proximal", "gradient"]),
)  # fmt: skip
def test_any_logits_give_a_bounded_alpha_and_finite_gradients(rows, beta, regulation):
    names = [f"m{i}" for i in range(len(rows))]
    encoders = {name: torch.nn.Linear(2, 3) for name in names}
    logits = {name: torch.tensor(row).view(2, 3) for name, row in zip(names, rows, strict=True)}
    target = torch.tensor([0, 2])
    part = InfoReg(encoders, beta=beta, start_epoch=0, regulation=regulation, during="all")
    part.start_epoch()
    for encoder in encoders.values():
        encoder(torch.ones(1, 2)).sum().backward()
    part.step(logits, target)
    assert scores(logits, target).isfinite().all()
    assert all(p.grad.isfinite().all() for encoder in encoders.values() for p in encoder.parameters())
    alphas = [alpha for alpha in part.end_epoch()["alpha"].values() if alpha is not None]
    assert all(1 <= alpha <= math.exp(beta) * (1 + 1e-6) for alpha in alphas) and len(alphas) < len(rows)


# --- Tables

FIGURE = st.floats(0, 100)
LABEL = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12)


@st.composite
def tables(draw):
    seeds = tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)))
    fused = st.fixed_dictionaries({"accuracy": FIGURE})
    both = st.fixed_dictionaries({"accuracy": FIGURE, "audio": FIGURE})
    right = st.lists(st.booleans(), min_size=5, max_size=5).map(np.array)
    lines: list[Line] = []
    for _ in range(draw(st.integers(1, 5))):
        known = draw(st.lists(st.sampled_from(seeds), unique=True))
        figures = {seed: draw(st.one_of(both, fused)) for seed in known}
        correct = {seed: draw(right) for seed in known} if draw(st.booleans()) else {}
        empty = {seed: draw(st.sampled_from(["not run", "failed: x|y"])) for seed in seeds if seed not in known}
        paper, against = draw(st.one_of(st.just({}), fused)), draw(st.sampled_from([None, *lines]))
        lines.append(Line(draw(LABEL), figures, empty, correct, paper, draw(st.booleans()), against))
    return Table("t", draw(LABEL), "demo", "last", seeds, ("accuracy", "audio"), tuple(lines))


@given(tables())
def test_any_table_is_written_whole_in_every_form_and_marks_the_best(table):
    header, rows = grid(table)
    assert all(len(row) == len(header) for row in rows) and len(rows) == len(table.lines)
    for column in table.columns:
        marks = table.marks(column)
        compared = [i for i, line in enumerate(table.lines) if not line.control]
        compared = [i for i in compared if len(table.lines[i].values(column)) == len(table.seeds)]
        compared.sort(key=lambda i: -table.lines[i].mean(column))
        ahead = len(compared) > 1 and not table.tied(*(table.lines[i] for i in compared[:2]), column)
        assert [i for i, mark in enumerate(marks) if mark == "best"] == (compared[:1] if ahead else [])
    assert latex(table).count(r"\begin{tabular}") == latex(table).count(r"\end{tabular}") == 1
    written = [line for line in markdown(table).split("\n") if line.startswith("| ")]
    assert len(written) >= len(rows) + 2
    entries = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert len(entries) == len(rows) * len(table.columns)
    for line in table.lines:
        low_high = line.interval
        assert low_high is None or 0 <= low_high[0] <= low_high[1] <= 100
        p = line.p_samples
        assert p is None or 0 <= p <= 1 + 1e-12
