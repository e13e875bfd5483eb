"""--split: training on some actors or speakers and testing on others."""

import shutil

import numpy as np
import pytest
import soundfile

from dataset import DATASETS, build
from dataset.classes import WORDS
from dataset.clips import AudioVisualClips
from dataset.cremad import CREMAD
from dataset.prepare.clips import Clip
from dataset.prepare.splits import split, split_text
from engine.parser import parse
from utils.errors import DataError

GROUPS = {"CREMAD": "actor", "GRID": "speaker"}
NAMES = {"CREMAD": "{group}_DFA_{label}_XX", "GRID": "{group}_bbaf{number}n"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{data set: its folder}, split as the preparation splits: ten groups with a clip of every class."""
    roots = {}
    for dataset, group in GROUPS.items():
        root = roots[dataset] = tmp_path_factory.mktemp(dataset)
        (root / "AudioWAV").mkdir()
        classes = CREMAD.classes if dataset == "CREMAD" else WORDS["digit"]
        clips = [
            Clip(NAMES[dataset].format(group=f"{who}", label=label, number=number), label, f"{who}", ())
            for who in range(1001, 1011)
            for number, label in enumerate(classes)
        ]
        for clip in clips:
            soundfile.write(root / "AudioWAV" / f"{clip.name}.wav", np.full(500, 0.1), 16000)
        for suffix, by_group in (("", False), (f"_by_{group}", True)):
            for part, rows in zip(("train", "test"), split(clips, 0.2, 0, by_group=by_group), strict=True):
                (root / f"{part}{suffix}.csv").write_text(split_text(rows)[0])
    return roots


@pytest.fixture
def root(whole, tmp_path):
    """A copy of the CREMA-D folder to break."""
    return shutil.copytree(whole["CREMAD"], tmp_path / "data")


def load(root, *flags, dataset="CREMAD", held_out=0.0):
    return build(parse(["--dataset", dataset, "--data_root", str(root), *flags]), ("audio",), held_out)


def names_of(file):
    return {line.split(",")[0] for line in file.read_text().splitlines()}


@pytest.mark.parametrize("dataset, group", GROUPS.items())
def test_it_reads_the_lists_that_the_preparation_writes(whole, dataset, group):
    root = whole[dataset]
    for flags, suffix in (([], ""), (["--split", group], f"_by_{group}")):
        data = load(root, *flags, dataset=dataset)
        train, test = set(data.train.names), set(data.test.names)
        assert train == names_of(root / f"train{suffix}.csv") and test == names_of(root / f"test{suffix}.csv")
        common_groups = {name[:4] for name in train} & {name[:4] for name in test}
        assert bool(common_groups) == (not flags)
        assert [data.classes[k] for k in data.test.targets[:1]] == [
            line.split(",")[1] for line in (root / f"test{suffix}.csv").read_text().splitlines()[:1]
        ]


def test_what_is_withheld_comes_out_of_the_groups_that_are_trained_on(whole):
    data = load(whole["CREMAD"], "--split", "actor", "--val_fraction", "0.2", held_out=0.2)
    test = {name[:4] for name in data.test.names}
    for part in (data.train, data.val, data.held_out):
        assert not {part.dataset.names[i][:4] for i in part.indices} & test


def test_it_names_the_setting_and_is_a_flag_of_those_data_sets_alone(capsys):
    assert parse(["--split", "actor"]).tag == "split=actor" and parse([]).split is None
    with_groups = {name for name, source in DATASETS.items() if issubclass(source, AudioVisualClips) and source.group}
    assert with_groups == {"CREMAD", "GRID"}
    for argv, said in (
        (["--dataset", "demo", "--split", "actor"], "--split is a flag of --dataset CREMAD, not of demo"),
        (["--dataset", "GRID", "--split", "actor"], "invalid choice: 'actor' (choose from"),
    ):
        with pytest.raises(SystemExit):
            parse(argv)
        assert said in capsys.readouterr().err


def edit(name, change):
    def damage(root):
        (root / name).write_text(change((root / name).read_text()))

    return damage


FAULTS = {
    "no train": (
        lambda root: (root / "train_by_actor.csv").unlink(),
        ["--split actor: ", "train_by_actor.csv does not exist", "several actors (data/README.md)"],
    ),
    "no test": (lambda root: (root / "test_by_actor.csv").unlink(), ["test_by_actor.csv does not exist"]),
    "empty": (edit("test_by_actor.csv", lambda text: ""), ["test_by_actor.csv is empty"]),
    "an actor in both": (
        lambda root: shutil.copy(root / "train.csv", root / "train_by_actor.csv")
        and shutil.copy(root / "test.csv", root / "test_by_actor.csv"),
        ["actors in both train_by_actor.csv and test_by_actor.csv, ", "1001", "prepare the data again"],
    ),
    "a clip in both": (
        lambda root: shutil.copy(root / "train_by_actor.csv", root / "test_by_actor.csv"),
        ["clips in both train and test"],
    ),
    "a name without an actor": (
        edit("train_by_actor.csv", lambda text: text + "clip,ANG\n"),
        ["clip names must begin with the actor and _, 1: clip"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_no_disjoint_split_is_refused(root, kind):
    damage, said = FAULTS[kind]
    damage(root)
    with pytest.raises(DataError) as refused:
        load(root, "--split", "actor")
    message = str(refused.value)
    assert all(words in message for words in said) and "\n" not in message, message
    assert len(load(root).test) == 12
