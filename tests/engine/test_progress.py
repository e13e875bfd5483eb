"""What a run shows while it trains: lines of 100 columns at most, a bar that keeps its width, epochs from 1."""

import io
import re
import warnings

import pytest
from helpers.runs import rows_of, train
from helpers.three import Three
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from dataset import DATASETS
from dataset.workers import Loader
from engine.progress import AGAIN, LEGEND, WIDTH, Lines, bar_of, cut, glimpse
from main import main
from utils.runs.history import Epoch

LONG = ("accelerometer_left", "accelerometer_right", "electrocardiogram")


def epoch_of(number, names, splits, value=1.0, opened=()):
    means = {"accuracy": value} | dict.fromkeys(names, value)
    windows = {name: name in opened for name in names}
    train = {"loss": 12345.678} | means
    return Epoch(number, 0.1, train, {"prime_window": windows}, dict.fromkeys(splits, means))


@pytest.mark.parametrize("splits", [("test",), ("val", "test")], ids="-".join)
@pytest.mark.parametrize("names", [("audio", "visual"), LONG, [f"sensor_{k}_of_many" for k in range(9)]], ids=len)
def test_an_epochs_line_fits_the_terminal_whatever_the_names(names, splits):
    lines = Lines(999)
    legend, header, first = lines.of(epoch_of(0, names, splits, opened=names), 12345.6)
    (last,) = lines.of(epoch_of(998, names, splits, 0.0), 1.0)
    assert legend == LEGEND and max(map(len, (legend, header, first, last))) <= WIDTH
    assert len(header) == len(first) == len(last)  # so that columns stay columns
    assert first.split()[0] == "1/999" and last.split()[0] == "999/999"
    assert len(header.split()) == len(first.split())
    assert {*splits, "train", "epoch", "loss", "s"} <= set(header.split())
    if len(names) < 4:
        assert len(header.split()) == 3 + (1 + len(splits)) * (1 + len(names)) and first.count("*") == len(names)


def test_names_that_are_cut_stay_different():
    assert cut(["audio", "visual"], 9) == {"audio": "audio", "visual": "visual"}
    assert cut(["vision", "audio"], 5) == {"vision": "visio", "audio": "audio"}
    assert list(cut(LONG, 6).values()) == ["acc~ft", "acc~ht", "ele~am"]


def test_the_header_comes_again():
    lines = Lines(60)
    shown = [lines.of(epoch_of(number, LONG, ("test",)), 1) for number in range(60)]
    assert [len(of_one) for of_one in shown] == [3, *(2 if n % AGAIN == 0 else 1 for n in range(1, 60))]


def test_a_run_of_three_modalities_prints_what_its_files_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(DATASETS, "three", Three)
    places = f"--out {tmp_path} --workers 0 --device cpu --val_fraction 0.34".split()
    main(["--dataset", "three", "--method", "joint", "--epochs", "3", "--threshold", "-10", *places])
    (folder,) = (tmp_path / "three" / "joint").glob("*/seed0")
    printed = capsys.readouterr().out.splitlines()
    begin = printed.index(LEGEND)
    table = [line.split() for line in printed[begin + 1 : begin + 5]]
    titles = ["train", *Three.modalities, "val", *Three.modalities, "test", *Three.modalities]
    assert table[0] == ["epoch", "loss", *[title[:5] if title == "visual" else title for title in titles], "s"]
    for number, (row, line) in enumerate(zip(rows_of(folder), table[1:], strict=True), 1):
        heads = ("accuracy", *Three.modalities)
        wanted = [f"{100 * row[split][head]:.1f}" for split in ("train", "val", "test") for head in heads]
        marked = [k for k, word in enumerate(line[2:-1]) if word.endswith("*")]
        assert line[:2] == [f"{number}/3", f"{row['train']['loss']:.3f}"]
        assert [word.rstrip("*") for word in line[2:-1]] == wanted
        assert marked == [k for k, name in enumerate(Three.modalities, 1) if row["prime_window"][name]]


def test_the_bar_keeps_its_width_and_fits_the_terminal():
    for names, total in ((("audio", "visual"), 9), (LONG, 12345), ([f"m{k}" for k in range(12)], 100)):
        widths = set()
        with tqdm(**bar_of("epoch 9/999", total), file=io.StringIO(), ncols=200) as bar:
            for step, share in ((1, 0.01), (total, 1.0)):
                means = {"loss": share, "loss_joint": share, "accuracy": share} | dict.fromkeys(names, share)
                bar.n = step
                bar.set_postfix_str(glimpse(means, "epoch 9/999", total))
                shown = str(bar)
                widths.add((len(shown), len(re.search(r"\|.*\|", shown)[0])))
                assert "fused" in shown or "f~d" in shown
        ((width, _),) = widths
        assert width <= WIDTH
    assert glimpse({}, "epoch 1/2", 10) == ""


def test_more_processes_than_cores_are_no_matter_of_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Loader(range(4), batch_size=2, num_workers=999)


def test_tensorboard_counts_epochs_from_1(demo, tmp_path):
    folder = train(demo, tmp_path, "--method", "joint", "--epochs", "3")
    events = EventAccumulator(str(folder))
    events.Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert {event.step for of_tag in scalars.values() for event in of_tag} == {1, 2, 3}
    for row, event in zip(rows_of(folder), scalars["test/accuracy"], strict=True):
        assert event.step == row["epoch"] + 1 and event.value == pytest.approx(row["test"]["accuracy"])
