"""From pretraining without labels over a chosen subset to training on it, by the programs."""

import argparse
import csv
import io
import json
import shutil
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from helpers.instances import make_features, save_features
from helpers.results import rows_of
from helpers.runs import checkpoint, differing, folder_of

import main as program
from scripts import collect, evaluate, pretrain, report, robustness, select_subset
from scripts.trained.pool import scored_by
from scripts.trained.restore import restore
from selection import ADDING, STRATEGIES, WARM
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


@pytest.fixture(scope="module")
def trained(pretrained, root, tmp_path_factory):
    """The checkpoint of a run on twelve labels, and their list."""
    out = tmp_path_factory.mktemp("trained")
    choose(pretrained, out / "few.txt", "random", 12)
    argv = flags(root, out, "--method", "joint", "--train_list", str(out / "few.txt"))
    program.main(argv)
    return folder_of(argv) / "last.pt", out / "few.txt"


@pytest.mark.parametrize("strategy", [*WARM, *ADDING])
def test_what_is_labelled_is_kept_and_no_other_label_is_read(trained, root, tmp_path, strategy):
    checkpoint, few = trained
    known = few.read_text().splitlines()
    arrays = make_features()
    others = [k for k, name in enumerate(f"train-{n}" for n in range(36)) if name not in known]
    arrays["train"]["label"][others] = np.random.default_rng(0).permutation(arrays["train"]["label"][others])
    lists = []
    for place in (root, save_features(tmp_path / "other", arrays)):
        told = choose(checkpoint, tmp_path / "more.txt", strategy, 20, "--from", str(few), "--data_root", str(place))
        lists.append((tmp_path / "more.txt").read_text().splitlines())
    assert lists[0] == lists[1] and lists[0][:12] == known
    assert len(set(lists[0])) == 20 and set(lists[0]) <= {f"train-{n}" for n in range(36)}
    assert {"strategy": strategy, "budget": 20, "pool": 36, "labelled": 12}.items() <= told.items()


def test_what_a_model_says_of_the_pool(trained):
    """Probabilities and Shapley values with features of zero, by the model itself, one subset at a time."""
    checkpoint, _ = trained
    restored = restore(checkpoint, argparse.Namespace(data_root=None, workers=0, device="cpu"))
    data, model = restored.data(restored.splits()[0]), restored.method.model
    scored = scored_by(restored, data)
    inputs = {name: torch.stack([data[i][0][name] for i in range(36)]) for name in model.modalities}
    with torch.no_grad():
        features = model.eval().encode(inputs)

        def share(*present):
            zeroed = {name: x if name in present else torch.zeros_like(x) for name, x in features.items()}
            return model.fuse(zeroed).softmax(dim=1)

        whole = share(*features)
        given = whole.argmax(dim=1)
        worth = {
            names: share(*names)[range(36), given] for k in range(4) for names in combinations(sorted(features), k)
        }
    np.testing.assert_allclose(scored.probabilities, whole, atol=1e-6)
    for name, x in features.items():
        np.testing.assert_allclose(scored.features[name], x, atol=1e-6)
        expected = torch.zeros(36)
        for order in permutations(features):
            before = order[: order.index(name)]
            expected += (worth[tuple(sorted([*before, name]))] - worth[tuple(sorted(before))]) / 6
        np.testing.assert_allclose(scored.contributions[name], expected, atol=1e-6)


def test_a_model_that_was_not_trained_on_labels_says_nothing_of_classes(pretrained, trained, tmp_path):
    with pytest.raises(RunError, match="--method mmcsal trains no classifier, so nothing is known of the classes"):
        choose(pretrained, tmp_path / "more.txt", "badge", 20, "--from", str(trained[1]))
    assert choose(pretrained, tmp_path / "more.txt", "coreset", 20, "--from", str(trained[1]))["labelled"] == 12


@pytest.mark.parametrize(
    "names, words", [("train-1\n" * 2, "more than once"), ("train-99\n", "does not have"), ("", "no")]
)
def test_a_list_of_what_is_labelled_has_names_of_the_split(trained, tmp_path, names, words):
    (tmp_path / "known.txt").write_text(names)
    with pytest.raises(RunError, match=f"--from {tmp_path / 'known.txt'} names .*{words}"):
        choose(trained[0], tmp_path / "more.txt", "badge", 20, "--from", str(tmp_path / "known.txt"))
    with pytest.raises(RunError, match=f"--budget 12: {trained[1]} has 12 samples already"):
        choose(trained[0], tmp_path / "more.txt", "badge", 12, "--from", str(trained[1]))


def test_what_no_classifier_predicts_is_shown_nowhere(pretrained, trained, tmp_path, capsys):
    """The gap stands in its place, and a sentence says why."""
    runs = [pretrained.parent, trained[0].parent]
    for run in runs:
        place = tmp_path.joinpath(*run.parts[-4:])
        shutil.copytree(run, place)
        (place / "figures/confusion.svg").write_text("<svg/>")
    table = rows_of(collect.of_folder(tmp_path, None))
    gap = json.loads((runs[0] / "metrics.jsonl").read_text().splitlines()[-1])["modality_gap"]
    shown = table["mmcsal, test"]
    assert shown["modality gap"] == f"{np.mean(list(gap.values())):.3f}"
    assert {shown[name] for name in ("accuracy", "image", "95% interval")} == {"-"}
    assert "-" not in {table["Joint training, test"][name] for name in ("accuracy", "image", "95% interval")}
    assert "mmcsal, test: no label is read and no classifier trained, so there is no acc" in capsys.readouterr().out
    of_csv = list(csv.DictReader(io.StringIO(collect.of_folder(tmp_path, None, form="csv"))))
    assert all((row["loss"] == row["accuracy"] == "") == (row["method"] == "mmcsal") for row in of_csv)
    words = report.page(tmp_path)
    assert "Modality gap, the distance" in words and words.count("Test accuracy; 1 seed") == 1
    assert words.count("Confusion matrix, last epoch, seed0.") == 1  # of two
    levels = ["--corruptions", "missing:image:1", *READ]
    assert f"Without a trained classifier, so not in the tables: {tmp_path}" in robustness.main(
        [str(tmp_path), *levels]
    )
    with pytest.raises(RunError, match="--method mmcsal trains no classifier: it predicts nothing to be evaluated"):
        evaluate.main([str(pretrained), *READ])


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
        (
            dict(strategy="badge"),
            "badge adds to what is labelled: give the list on which .*last.pt was trained by --from",
        ),
        (dict(more=["--from", "few.txt"]), "--from is for random, coreset, entropy, badge, bmmal: mmcsal chooses all"),
        (dict(strategy="coreset", more=["--from", "no.txt"]), "cannot read no.txt"),
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
