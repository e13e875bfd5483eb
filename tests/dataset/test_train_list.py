"""--train_list: the samples that are trained on, what is refused, and how runs and tables know the list."""

import argparse
import json

import pytest
from helpers.instances import make_features, save_features
from helpers.runs import checkpoint, differing, folder_of, rows_of

import main as program
from dataset import build, checksums
from dataset.base import below, targets_of
from engine.parser import parse
from scripts import ensemble, linear_probe
from scripts.results.consistency import Origin, differences
from scripts.trained.evaluation import Evaluation
from scripts.trained.restore import restore
from utils.errors import DataError, RunError
from utils.runs.setting import setting

CHOSEN = [f"train-{n}" for n in range(0, 36, 2)]  # 18, six of each class


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return save_features(tmp_path_factory.mktemp("data") / "features", make_features())


@pytest.fixture
def listed(tmp_path):
    """listed(names, name): a list with these names."""

    def write(names=CHOSEN, name="few.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(f"{each}\n" for each in names))
        return str(tmp_path / name)

    return write


def flags(root, out, *more):
    small = "--hidden 8 --batch_size 6 --epochs 2 --workers 0 --device cpu --tag test --method joint".split()
    return ["--dataset", "features", "--data_root", str(root), "--out", str(out), *small, *more]


def names_in(data):
    base, at = below(data)
    return [base.names[i] for i in at]


@pytest.mark.parametrize("withheld", [0.0, 0.3333])
def test_every_part_of_the_training_split_is_of_the_list(root, listed, withheld):
    args = parse(flags(root, "nowhere", "--train_list", listed(), "--val_fraction", str(withheld)))
    splits = build(args, ("image", "text"), withheld)
    parts = [part for part in (splits.train, splits.val, splits.held_out) if part]
    assert sorted(name for part in parts for name in names_in(part)) == sorted(CHOSEN)
    assert len(splits.test) == 12
    if withheld:  # each a share of the list, and of every class
        assert [len(part) for part in parts] == [6, 6, 6]
        assert all(sorted(targets_of(part)) == [0, 0, 1, 1, 2, 2] for part in parts)
        assert names_in(splits.plain) == names_in(splits.train)


def test_the_order_of_a_list_does_not_matter(root, listed):
    lists = listed(), listed(["", *reversed(CHOSEN), ""], "other.txt")
    found = [build(parse(flags(root, "nowhere", "--train_list", path)), ("image", "text")).train for path in lists]
    assert names_in(found[0]) == names_in(found[1]) == CHOSEN


@pytest.mark.parametrize(
    "names, words",
    [
        ([], "names no sample: write the name of one in each line"),
        (["train-1", "train-2", "train-1"], "names samples more than once, 1: train-1: leave the others out"),
        (
            ["train-1", "test-0", "nobody"],
            "names samples that the training split does not have, 2: nobody, test-0: correct them, or leave them out",
        ),
    ],
)
def test_a_list_that_is_none_is_refused_in_a_sentence(root, listed, tmp_path, names, words):
    path = listed(names)
    with pytest.raises(DataError) as refused:
        program.main(flags(root, tmp_path, "--train_list", path))
    assert str(refused.value) == f"--train_list {path} {words}"


def test_a_list_that_is_missing(root, tmp_path):
    with pytest.raises(DataError, match=f"cannot read {tmp_path}/no.txt"):
        program.main(flags(root, tmp_path, "--train_list", str(tmp_path / "no.txt")))


def test_a_run_trains_on_its_list_and_goes_on_with_that_one_alone(root, listed, tmp_path, monkeypatch):
    argv = flags(root, tmp_path / "out", "--train_list", listed())
    program.main(argv)
    folder = folder_of(argv)
    args = json.loads((folder / "args.json").read_text())
    (entry,) = args["provenance"]
    assert entry["data"]["--train_list few.txt"] == checksums(parse(argv))["--train_list few.txt"]
    assert len(entry["data"]["--train_list few.txt"]) == 64
    # The same samples alone in train.npz, standardised as they are in the whole, give the same weights.
    arrays = make_features()
    alone = {name: x[::2] for name, x in arrays["train"].items() if name != "classes"} | {
        "classes": arrays["train"]["classes"]
    }
    small = save_features(tmp_path / "small", arrays | {"train": alone})
    raw = ["--standardise", "none"]
    runs = [flags(root, tmp_path / "one", "--train_list", listed(), *raw), flags(small, tmp_path / "two", *raw)]
    for words in runs:
        program.main(words)
    one, two = map(folder_of, runs)
    assert not differing(checkpoint(one)["model"], checkpoint(two)["model"]) and rows_of(one) == rows_of(two)
    # Whoever looks at the run later goes by the list, too.
    probes = [linear_probe.main([f"{run}/last.pt", "--workers", "0"]) for run in (one, two)]
    assert probes[0] == probes[1] == json.loads((one / "probe.json").read_text())
    collect, sizes = linear_probe.collect, []
    monkeypatch.setattr(linear_probe, "collect", lambda *told: sizes.append(len(told[1].dataset)) or collect(*told))
    linear_probe.main([f"{one}/last.pt", "--workers", "0", "--all_labels"])
    assert sizes == [36, 12] and (one / "probe_all_labels.json").exists()
    place = argparse.Namespace(data_root=None, workers=0, device="cpu")
    means = [Evaluation(restore(run / "last.pt", place)).means() for run in (one, two)]
    assert not differing(*means)
    # It goes on with the list where it was or elsewhere, and with no other.
    (folder / "done").unlink()
    elsewhere = listed(name="there/few.txt")
    program.main([*argv, "--train_list", elsewhere, "--resume"])
    with pytest.raises(RunError, match="--train_list was few.txt, is many.txt"):
        program.main([*argv, "--train_list", listed(name="many.txt"), "--resume"])
    with pytest.raises(RunError, match="holds a run on other data: --train_list few.txt of "):
        program.main([*argv, "--train_list", listed(CHOSEN[1:], "there/few.txt"), "--resume"])


def test_models_of_other_lists_are_no_company(root, listed, tmp_path):
    """Neither in an average, nor as teachers: their labels would count."""
    alone = []
    for name, more in (("image", ["--train_list", listed()]), ("text", [])):
        words = ["--method", "unimodal", "--modality", name, "--epochs", "1", "--tag", name, *more]
        argv = flags(root, tmp_path / "out", *words)
        program.main(argv)
        alone.append(str(folder_of(argv) / "last.pt"))
    with pytest.raises(RunError, match="--train_list is few.txt for image, None for text: an ensemble is of models of"):
        ensemble.main([*alone, "--out", str(tmp_path), "--workers", "0"])
    teachers = [f"{name}={path}" for name, path in zip(("image", "text"), alone, strict=True)]
    two = ["--modalities", "image,text", "--method", "umt", "--teachers", *teachers]
    with pytest.raises(RunError, match="text=.* was trained on all of the training split, this run is on --train"):
        program.main(flags(root, tmp_path, *two, "--train_list", listed()))
    with pytest.raises(RunError, match="image=.*was trained on --train_list few.txt, this run is on all of"):
        program.main(flags(root, tmp_path, *two))


def test_the_probe_of_one_class_says_so(root, listed, tmp_path):
    alike = [f"train-{n}" for n, label in enumerate(make_features()["train"]["label"]) if label == 0]
    argv = flags(root, tmp_path, "--epochs", "1", "--train_list", listed(alike))
    program.main(argv)
    with pytest.raises(RunError, match="last.pt: the samples that it was trained on are of one class"):
        linear_probe.main([f"{folder_of(argv)}/last.pt", "--workers", "0"])


def test_a_setting_and_its_tag_name_the_list(listed):
    argv = ["--dataset", "demo", "--method", "joint", "--train_list", listed(name="random.20.txt")]
    args = parse(argv)
    assert args.tag == "train_list=random.20.txt" and setting(vars(args))["train_list"] == "random.20.txt"


def origins(*lists):
    """Runs of seeds with such a (seed, name, checksum)."""
    for number, (seed, name, checksum) in enumerate(lists):
        data = {"train.csv": "1" * 64} | ({f"--train_list {name}": checksum} if name else {})
        entry = {"commit": "a" * 40, "dirty": False, "versions": {}, "data": data}
        args = {"dataset": "demo", "method": "joint", "seed": seed, "train_list": name and f"x/{name}"}
        yield Origin(f"run {number}", "row", args | {"provenance": [entry]}, ["train_list"])


def test_tables_know_when_two_lists_of_a_seed_have_one_name():
    one, other = "3" * 64, "4" * 64
    assert differences(list(origins((0, "a.txt", one), (0, "a.txt", one), (1, "a.txt", other)))) == []
    (said,) = differences(list(origins((0, "a.txt", one), (0, "a.txt", other), (1, "a.txt", other))))
    assert said == "data, --train_list a.txt: 33333333... in 1: run 0; 44444444... in 1: run 1"
    (said,) = differences(list(origins((0, None, None), (1, "a.txt", one))))  # of one row
    assert said.startswith("recipe, --train_list: None in 1: run 0; a.txt in")
