"""scripts/evaluate.py on real runs: noise, missing and conflicting modalities, contributions."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from helpers.runs import SMALL, make_demo, train

from dataset.demo import Demo
from dataset.recipes.corrupt import Noise
from scripts import evaluate
from scripts.trained.evaluation import FILLS, Condition, Evaluation
from scripts.trained.restore import restore
from utils.errors import RunError
from utils.runs.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: last.pt of a real run}."""
    demo, out = make_demo(tmp_path_factory.mktemp("data") / "demo"), tmp_path_factory.mktemp("results")
    flags = ["--epochs", "8", "--lr", "0.1", "--lr_step", "99", "--cache", "ram"]
    made = {
        "joint": ["--method", "joint", "--epochs", "16"],
        "film": ["--method", "joint", "--fusion", "film", "--tag", "film"],
        "heads": ["--method", "joint", "--unimodal_loss", "heads", "--tag", "heads"],
        "greedy": ["--method", "greedy", "--fusion", "sum"],
        "audio": ["--method", "unimodal", "--modality", "audio"],
        "bf16": ["--method", "joint", "--precision", "bf16", "--epochs", "2", "--tag", "bf16"],
        "noisy": ["--method", "joint", "--train_noise", "audio:snr:0", "--tag", "noisy"],
    }
    return {name: train(demo, out, *flags, *more) / "last.pt" for name, more in made.items()}


@pytest.fixture
def run(runs, monkeypatch):
    """run(name, *flags): what the script finds of a run."""
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)

    def make(name, *words):
        path = runs.get(name, name)
        return evaluate.main([str(path), "--device", "cpu", "--workers", "0", *map(str, words)])

    return make


NAMES = ["joint", "film", "heads", "greedy", "audio", "bf16", "noisy"]


@pytest.mark.parametrize("name", NAMES)
def test_the_clean_figures_are_those_of_the_run(runs, run, name, capsys):
    found = run(name)
    last = json.loads((runs[name].parent / "result.json").read_text())["last"]
    assert found["clean"] == {key: value for key, value in last.items() if key not in ("epoch", "loss")}
    assert f"{last['accuracy']:.2%}" in capsys.readouterr().out and "mean" not in found


@pytest.mark.parametrize("name", NAMES)
def test_nothing_done_is_nothing_changed(run, name):
    words = "--eval_noise audio:gaussian:0 --eval_noise visual:jpeg:5@0 --eval_missing any:0 --eval_conflict 0".split()
    found = run(name, *words, "--missing_fill", "mean", "--eval_seeds", "2")
    assert found["mean"] == pytest.approx(found["clean"], rel=1e-15) and not any(found["deviation"].values())


@pytest.mark.parametrize("name", ["joint", "film", "heads", "greedy"])
def test_without_the_others_the_accuracy_is_that_of_the_read_out(run, name):
    for absent, left in (("audio", "visual"), ("visual", "audio")):
        found = run(name, "--eval_missing", f"{absent}:1")
        assert found["mean"]["accuracy"] == found["clean"][left] == found["mean"][left]


def by_hand(path, seed, change):
    """Accuracy of a run's model on the test split, one sample at a time; `change(inputs, i)` corrupts its inputs."""
    trained = restore(path, Namespace(data_root=None, device="cpu"))
    method, data = trained.method, trained.data(trained.splits()[1])
    model = method.model.eval()
    change(data)
    hits = 0
    with torch.no_grad():
        for i in range(len(data)):
            inputs, target, _ = data[i]
            logits = model.fuse(model.encode({name: x[None] for name, x in inputs.items()}))
            hits += int(logits.argmax() == target)
    return hits / len(data)


def test_noise_is_that_of_the_data_set_and_is_drawn_anew_for_every_seed(runs, run):
    texts = ["audio:snr:10", "visual:gaussian:2@0.5"]
    found = run("joint", *(word for text in texts for word in ("--eval_noise", text)), "--eval_seeds", 3)
    wanted = []
    for seed in (1, 2, 3):

        def change(data, seed=seed):
            data.noise = data.source.noise = Noise(Demo.forms, texts, seed)

        wanted.append(by_hand(runs["joint"], seed, change))
    assert len(set(wanted)) > 1
    assert found["mean"]["accuracy"] == pytest.approx(np.mean(wanted), rel=1e-12)
    assert found["deviation"]["accuracy"] == pytest.approx(np.std(wanted, ddof=1), rel=1e-12)
    assert found == run("joint", *(word for text in texts for word in ("--eval_noise", text)), "--eval_seeds", 3)


def test_noise_of_an_evaluation_comes_upon_that_of_the_data(runs, run):
    seen = {}

    def change(data):
        seen["before"] = [str(c) for c, _ in data.noise.steps]
        data.noise = data.source.noise = data.noise.then(["audio:snr:0"], 1)

    found = run("noisy", "--eval_noise", "audio:snr:0")
    assert found["mean"]["accuracy"] == by_hand(runs["noisy"], 1, change) and seen["before"] == ["audio:snr:0"]


def test_a_run_that_was_trained_from_memory_is_tested_with_noise_too(runs, run):
    state = load_checkpoint(runs["joint"])
    assert state["args"]["cache"] == "ram"
    own = Namespace(data_root=None, device="cpu", workers=0)
    tested = Evaluation(restore(runs["joint"], own))
    clean = tested.data[3][0]
    noisy = tested.corrupted(Condition(noise=("any:gaussian:5",)), seed=1)[3][0]
    for name in clean:
        assert not torch.equal(noisy[name], clean[name]) and torch.equal(tested.data[3][0][name], clean[name])


def test_the_contribution_of_a_real_run(run):
    for name in ("joint", "heads", "audio"):
        for fill in FILLS:
            found = run(name, "--report_contribution", "--missing_fill", fill)["clean"]
            modalities = [word.split()[1] for word in found if word.startswith("contribution")]
            everything = found["{" + ", ".join(modalities) + "}"]
            assert everything == found["accuracy"]
            total = sum(found[f"contribution {m}"] for m in modalities)
            assert total == pytest.approx(everything - found["{}"], abs=1e-12)
            if fill == "zero" and len(modalities) == 2:
                assert all(found[f"{{{m}}}"] == found[m] for m in modalities)


def test_the_mean_feature_is_that_of_the_training_split(runs, run, monkeypatch):
    seen = []
    means = Evaluation.means
    monkeypatch.setattr(Evaluation, "means", lambda self: seen.append((self, means(self))) or seen[-1][1])
    one = run("joint", "--eval_missing", "audio:1", "--missing_fill", "mean")
    tested, found = seen[0]
    model = tested.method.model.eval()
    data = tested.trained.data(tested.train_rows)
    with torch.no_grad():
        features = [model.encode({n: x[None] for n, x in data[i][0].items()}) for i in range(len(data))]
    for name in model.modalities:
        torch.testing.assert_close(found[name], torch.cat([f[name] for f in features]).mean(dim=0))
    assert one["mean"]["audio"] != one["clean"]["audio"]


def test_figures_do_not_depend_on_batches_and_workers(runs, run, tmp_path):
    words = "--eval_noise any:gaussian:4@0.7 --eval_missing any:0.3 --eval_conflict 0.5 --eval_seeds 2".split()
    found = run("joint", *words)
    state = load_checkpoint(runs["joint"])
    state["args"]["batch_size"] = 3
    torch.save(state, tmp_path / "last.pt")
    other = run(tmp_path / "last.pt", *words, "--workers", "2")
    for numbers in ("mean", "deviation"):  # ece and loss are of float32 probabilities, which round by the batch
        assert other[numbers] == pytest.approx(found[numbers], rel=1e-6, abs=1e-7)
    assert found["mean"]["accuracy"] < found["clean"]["accuracy"]


def test_what_is_written(run, tmp_path, capsys):
    flags = ["--eval_missing", "audio:0.5", "--eval_conflict", "0.25", "--eval_noise", "visual:shot:2"]
    found = run("joint", *flags, "--out", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == json.loads(json.dumps(found))
    wanted = dict(noise=("visual:shot:2",), missing=("audio:0.5",), missing_fill="zero", conflict=0.25)
    assert found["condition"] == wanted and found["epoch"] == 15
    (line,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[0] == "accuracy"]
    clean, mean = found["clean"]["accuracy"], found["mean"]["accuracy"]
    assert line == ["accuracy", f"{clean:.2%}", f"{mean:.2%}", f"{clean - mean:.2%}"]
    assert "deviation" not in found  # of one draw


@pytest.mark.parametrize(
    "words, said",
    [
        ("--eval_noise smell:snr:0", "--eval_noise 'smell:snr:0': the modalities are audio, visual"),
        ("--eval_noise audio:jpeg:1", "the kinds of audio are snr, gaussian"),
        ("--eval_noise audio:snr:0 --eval_noise audio:snr:5", "audio:snr is asked for more than once"),
        ("--eval_missing smell:0.5", "--eval_missing smell:0.5: the modalities are audio, visual"),
        ("--eval_missing audio:1.5", "--eval_missing audio:1.5: '1.5' is not a probability"),
        ("--eval_missing audio", "--eval_missing audio: it is MODALITY:RATE, such as audio:0.5"),
        ("--eval_missing 0.5", "--eval_missing 0.5: it is MODALITY:RATE, such as audio:0.5"),
        ("--eval_missing any:0.5 --eval_missing audio:0.1", "audio has a rate already"),
    ],
)
def test_what_is_not_defined_is_refused_in_one_sentence(run, words, said):
    with pytest.raises(RunError) as refused:
        run("joint", *words.split())
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_of_one_modality_does_not_miss_the_others(run):
    found = run("audio", "--eval_missing", "visual:1", "--eval_noise", "visual:gaussian:5")
    assert found["mean"] == found["clean"]
    nothing = run("audio", "--eval_missing", "audio:1")["mean"]  # one class, always
    assert nothing["accuracy"] == pytest.approx(1 / 8)
