"""Clips in one process and in several: what fails, dies or cannot be named costs its clip alone."""

import os
import shutil
import subprocess
import sys

import prepare_cremad
import prepare_grid
import prepare_kinetics_sounds as kinetics
import prepare_ucf101
import prepare_videos
import pytest
from helpers.muxing import levels, wave, write
from helpers.places import ROOT
from helpers.preparing import deadly_recipe, manifest

from dataset.prepare.clips import LONGEST, Clip, Maker, name_fault
from dataset.prepare.space import in_units
from dataset.prepare.workers import prepare_clips
from utils.errors import DataError


@pytest.mark.parametrize("workers", [1, 3])
def test_what_a_recipe_raises_is_the_failure_of_its_clip(tmp_path, workers):
    clips = [Clip(f"c{i}", "raises" if i in (2, 7) else "good", "", (tmp_path / f"{i}",)) for i in range(12)]
    failed = prepare_clips(clips, Maker(deadly_recipe, tmp_path / "out", fps=1), workers)
    assert failed == dict.fromkeys(("c2", "c7"), "cannot be made (IndexError: list index out of range)")
    assert len(list((tmp_path / "out" / "Image-01-FPS").iterdir())) == 10


def test_a_worker_that_dies_costs_its_clip_alone(tmp_path):
    labels = {3: "killed", 8: "killed once", 9: "killed"}
    clips = [Clip(f"c{i:02d}", labels.get(i, "good"), "", (tmp_path / f"{i}",)) for i in range(16)]
    failed = prepare_clips(clips, Maker(deadly_recipe, tmp_path / "out", fps=1), workers=2)
    assert failed.keys() == {"c03", "c09"} and all(
        "ends the process that decodes it" in said for said in failed.values()
    )
    made = sorted(path.name for path in (tmp_path / "out" / "Image-01-FPS").iterdir())
    assert made == [clip.name for clip in clips if clip.name not in failed]
    assert len(list((tmp_path / "out" / "AudioWAV").iterdir())) == 14  # and no half-made ones


# Names


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "x.mkv"
    write(path, levels(3), [wave(3, (1, 2))])
    return path


def test_names_of_all_kinds_are_prepared_or_named(video, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for part in ("train", "test"):
        for label in ("été", "no\u00a0break"):
            (raw / part / label).mkdir(parents=True)
            shutil.copy(video, raw / part / label / "v.MKV")
    folder = raw / "train" / "été"
    long = "x" * (LONGEST - len("train__été__".encode()))
    good = ["no\u00a0break", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "line\u2028end", long, "comma, 'quote\""]
    for name in good:
        shutil.copy(video, folder / f"{name}.mkv")
    for name in ("x" * 251, "tab\there", "back\\slash"):
        shutil.copy(video, folder / f"{name}.mkv")
    shutil.copy(video, os.fsencode(folder) + b"/latin\xe9.mkv")
    (folder / "dangling.mkv").symlink_to(tmp_path / "nowhere.mkv")
    command = [sys.executable, "data/prepare_videos.py", "--raw", raw, "--out", out, "--workers", "1"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "5 of 14 clips could not" in done.stderr
    said = manifest(out)["failed"]
    assert len(said) == 5 and sorted(reason.split(" ")[0] for reason in said.values()) == ["its"] * 4 + [
        "été/dangling.mkv"
    ]
    command.append("--allow_missing")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0 and "\\xe9t\\xe9 6" in done.stdout, done.stderr
    found = prepare_videos.read_list(out / "train.csv")
    assert {fields[0] for _, fields in found} == {f"train__été__{name}" for name in (*good, "v")} | {
        "train__no\u00a0break__v"
    }


@pytest.mark.parametrize(
    ("name", "label", "said"),
    [
        ("plain", "plain", None),
        ("x" * 251, "y" * 400, None),
        ("é" * 126, "a", "252 bytes"),
        ("a\nb", "a", "control character"),
        ("a", "a\x85b", "control character"),
        ("a\\b", "a", "backslash"),
        ("", "a", "empty"),
        ("a\udce9", "a", "not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_name(name, label, said):
    fault = name_fault(Clip(name, label, "", ()))
    assert fault is None if said is None else said in fault


def test_folders_may_be_links(video, tmp_path, capsys):
    raw, real = tmp_path / "raw", tmp_path / "real"
    for place in (raw / "train/a", raw / "test/a", raw / "test/b", real / "b"):
        place.mkdir(parents=True)
        shutil.copy(video, place / "x.mkv")
    (raw / "train/b").symlink_to(real / "b")
    (raw / "train/a/loop").symlink_to(raw)
    found = prepare_videos.find_clips(raw)
    assert [clip.label for clip in found["train"]] == ["a", "b"] == [clip.label for clip in found["test"]]
    assert "without a video" not in capsys.readouterr().out
    (raw / "train/c").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="train/c is a link to .*nowhere, which is not there"):
        prepare_videos.find_clips(raw)


# Suffixes and lists


def test_suffixes_may_be_in_capital_letters(tmp_path):
    def touch(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(b"x")

    touch("cremad/AudioWAV/1001_DFA_ANG_XX.WAV", "cremad/VideoFlash/1001_DFA_ANG_XX.FLV")
    touch("grid/s1/bbaf2n.MPG", "grid/align/s1/bbaf2n.ALIGN", "ucf/UCF-101/Typing/v_Typing_g01_c01.AVI")
    (clip,) = prepare_cremad.find_clips(tmp_path / "cremad")
    assert all(path.exists() for path in clip.sources)
    (clip,) = prepare_grid.find_clips(tmp_path / "grid", "digit")
    assert all(path.exists() for path in clip.sources)
    (tmp_path / "list.txt").write_text("Typing/v_Typing_g01_c01.avi 1\n")
    (clip,) = prepare_ucf101.read_clips(tmp_path / "list.txt", tmp_path / "ucf" / "UCF-101", {"Typing": 1})
    assert clip.sources[0].exists()


FORMS = {
    "plain": "{}\n{}\n",
    "blank lines": "\n{}\n\n  \n{}\n\n",
    "blanks": "  {}  \n {} \n",
    "carriage returns": "{}\r\n{}\r\n",
    "byte order mark": "\ufeff{}\n{}\n",
    "no end": "{}\n{}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("quoted", [False, True])
def test_lists_are_read_as_training_reads_its_own(tmp_path, form, quoted):
    def listed(*lines):
        def quote(line):
            return ",".join(f'"{field}"' for field in line.split(",")) if quoted else line

        (tmp_path / "list").write_bytes(FORMS[form].format(*map(quote, lines)).encode())
        return tmp_path / "list"

    names = ["1001_DFA_ANG_XX", "1002_DFA_SAD_XX"]
    path = listed(*(f"{name},{name.split('_')[2]}" for name in names))
    clips = prepare_cremad.read_clips(path, {name: Clip(name, name.split("_")[2], "", ()) for name in names}, False)
    assert [clip.name for clip in clips] == names
    path = listed("-id_0000001_000010_000020.mp4,ten,3", "-id_0000002_000010_000020.mp4,ten,4")
    assert list(kinetics.read_numbers(path).values()) == ["3", "4"]
    path = listed("Typing/v_Typing_g01_c01.avi 1", "Typing/v_Typing_g01_c02.avi 1")
    assert [clip.name[-3:] for clip in prepare_ucf101.read_clips(path, tmp_path, {"Typing": 1})] == ["c01", "c02"]
    path = listed("a/x.mp4,first,train", "b/y.mp4,second,test")
    found = prepare_videos.read_clips(path, tmp_path)
    assert {part: [clip.name for clip in clips] for part, clips in found.items()} == {
        "train": ["a__x"],
        "test": ["b__y"],
    }


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345_678, "12.3 MB"), (2.5e12, "2.5e+03 GB")]
)
def test_sizes_are_given_in_decimal_units(size, text):
    assert in_units(size) == text
