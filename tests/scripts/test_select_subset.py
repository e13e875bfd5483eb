"""From pretraining without labels over a chosen subset to training on it, by the programs."""

import json
import shutil

import numpy as np
import pytest
from helpers.instances import make_features, save_features
from helpers.runs import checkpoint, differing, folder_of

import main as program
from scripts import pretrain, select_subset
from selection import STRATEGIES
from utils.errors import CombinationError, RunError

SMALL = "--hidden 8 --batch_size 12 --epochs 2 --workers 0 --device cpu --tag test".split()
READ = ["--workers", "0", "--device", "cpu"]


def flags(root, out, *more):
    return ["--dataset", "features", "--data_root", str(root), "--out", str(out), *SMALL, *more]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return save_features(tmp_path_factory.mktemp("data") / "features", make_features())


@pytest.fixture(scope="module")
def pretrained(root, tmp_path_factory):
    argv = flags(root, tmp_path_factory.mktemp("runs"))
    gap = pretrain.main(argv)
    assert gap.keys() == {"image", "speech", "text"} and all(value > 0 for value in gap.values())
    return folder_of([*argv, "--method", "mmcsal"]) / "last.pt"


def choose(features, out, strategy="mmcsal", budget=9, *more):
    words = ["--strategy", strategy, "--budget", str(budget), "--features", str(features), "--out", str(out)]
    return select_subset.main([*words, *READ, *more])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_list_has_so_many_names_of_the_training_split(pretrained, tmp_path, strategy):
    told = choose(pretrained, tmp_path / "sub" / "few.txt", strategy, 9, "--seed", "2")
    names = (tmp_path / "sub" / "few.txt").read_text().splitlines()
    assert len(set(names)) == len(names) == 9 and set(names) <= {f"train-{n}" for n in range(36)}
    assert told == json.loads((tmp_path / "sub" / "few.json").read_text())
    expected = {"strategy": strategy, "budget": 9, "seed": 2, "pool": 36}
    assert expected.items() <= told.items() and told["gap"] > 0 and -1 <= told["alignment_of_chosen"] <= 1


def test_shuffled_labels_give_the_same_list(pretrained, root, tmp_path):
    arrays = make_features()
    arrays["train"]["label"] = np.random.default_rng(0).permutation(arrays["train"]["label"])
    other = save_features(tmp_path / "other", arrays)
    lists = []
    for place in (root, other):
        choose(pretrained, tmp_path / "few.txt", "mmcsal", 9, "--data_root", str(place))
        lists.append((tmp_path / "few.txt").read_text())
    assert lists[0] == lists[1]


def test_the_alignment_counts(pretrained, tmp_path):
    low, high = (choose(pretrained, tmp_path / "few.txt", "mmcsal", 9, "--lambda_align", word) for word in ("0", "100"))
    assert high["alignment_of_chosen"] > low["alignment_of_chosen"]


def test_training_goes_on_from_there(pretrained, root, tmp_path):
    """On the list, from the encoders, whose checkpoint has what --weights takes."""
    choose(pretrained, tmp_path / "few.txt", "kmeans", 30)
    weights = [word for name in ("image", "text", "speech") for word in ("--weights", f"{name}={pretrained}")]
    frozen = [word for name in ("image", "text", "speech") for word in ("--freeze", name)]
    argv = flags(root, tmp_path, "--method", "joint", "--train_list", str(tmp_path / "few.txt"), *weights, *frozen)
    program.main(argv)
    before, after = checkpoint(pretrained.parent)["model"], checkpoint(folder_of(argv))["model"]
    encoders = [{name: x for name, x in state.items() if name.startswith("encoders.")} for state in (before, after)]
    assert not differing(*encoders)


def test_the_pool_is_what_was_pretrained_on(pretrained, root, tmp_path):
    choose(pretrained, tmp_path / "some.txt", "random", 20)
    argv = flags(root, tmp_path, "--train_list", str(tmp_path / "some.txt"))
    pretrain.main(argv)
    told = choose(folder_of([*argv, "--method", "mmcsal"]) / "last.pt", tmp_path / "few.txt", "coreset", 20)
    assert told["pool"] == 20
    lists = [sorted((tmp_path / name).read_text().splitlines()) for name in ("some.txt", "few.txt")]
    assert lists[0] == lists[1]


def test_a_model_with_labels_is_compared_by_its_features(root, tmp_path):
    argv = flags(root, tmp_path, "--method", "unimodal", "--modality", "text")
    program.main(argv)
    checkpoint = folder_of(argv) / "last.pt"
    assert "gap" not in choose(checkpoint, tmp_path / "few.txt", "kmeans")
    with pytest.raises(RunError, match=f"{checkpoint}: modalities are compared by features of one width, not text 8"):
        choose(checkpoint, tmp_path / "few.txt", "mmcsal")


@pytest.mark.parametrize(
    "more, words",
    [
        (dict(budget=37), "a budget of 37 samples of a pool of 36"),
        (dict(out="few"), "does not end in .txt"),
        (dict(strategy="kmeans", budget=5, more=["--lambda_align", "1"]), "--lambda_align is of --strategy mmcsal"),
    ],
)
def test_what_is_not_defined_is_refused_in_a_sentence(pretrained, tmp_path, more, words):
    with pytest.raises(RunError, match=words):
        out = tmp_path / more.get("out", "few.txt")
        choose(pretrained, out, more.get("strategy", "mmcsal"), more.get("budget", 9), *more.get("more", []))
    assert not list(tmp_path.iterdir())


def test_pretraining_has_a_method_and_is_done_once(root, pretrained, tmp_path, capsys):
    with pytest.raises(CombinationError, match="this program has one, mmcsal"):
        pretrain.main(flags(root, tmp_path, "--method=joint"))
    shutil.copytree(pretrained.parents[4], tmp_path / "copy")
    pretrain.main(flags(root, tmp_path / "copy", "--resume"))
    said = capsys.readouterr().out
    assert "already done" in said and "no label was read" in said and "gap: image" in said
