"""Evaluation under noise, missing and conflicting modalities, and each modality's contribution."""

import itertools
import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from helpers.runs import SMALL, make_demo, train
from helpers.tiny import CLASSES, TinyData

from dataset.base import MultimodalDataset
from dataset.demo import Demo
from dataset.loader import make_loader
from dataset.recipes.corrupt import Noise
from models.fusion import FUSIONS
from models.multimodal import Output
from scripts import evaluate
from scripts.trained.conditions import Conflicting, contributions, draw_present, missing, subsets, without
from scripts.trained.evaluation import FILLS, Condition, Evaluation
from scripts.trained.restore import restore
from utils.errors import RunError
from utils.runs.checkpoint import load_checkpoint

THREE = ("audio", "visual", "depth")
COUNT = 40

# --- Missing modalities


@pytest.fixture
def outputs(tiny_model):
    """outputs(modalities, fusion, heads): a model in evaluation mode and its output for COUNT samples."""

    def make(modalities, fusion="concat", heads=False):
        model = tiny_model(modalities, fusion).eval()
        if heads:
            model.add_heads()
            model.heads.double()
        for p in model.parameters():
            torch.nn.init.normal_(p)  # biases, too: they tell a read-out from a prediction
        features = model.encode(TinyData(modalities, COUNT).images)
        target = torch.arange(COUNT) % CLASSES
        return model, Output(model.fuse(features), model.unimodal(features), features, target)

    return make


CASES = [(THREE[:2], fusion, heads) for fusion in FUSIONS for heads in (False, True)]
CASES += [(THREE, fusion, heads) for fusion in ("concat", "sum") for heads in (False, True)]


@pytest.mark.parametrize("modalities, fusion, heads", CASES)
def test_a_modality_left_alone_gives_exactly_its_unimodal_read_out(outputs, modalities, fusion, heads):
    model, output = outputs(modalities, fusion, heads)
    for name in modalities:
        rates = {other: 1.0 for other in modalities if other != name}
        found = without(model, output, draw_present(modalities, rates, COUNT, seed=1))
        assert torch.equal(found.logits, output.unimodal[name])
        assert torch.equal(found.unimodal[name], output.unimodal[name])
        assert not torch.allclose(found.logits, output.logits)
        absent = {other: torch.zeros_like(feature) for other, feature in output.features.items()}
        for other in rates:
            assert torch.equal(found.unimodal[other], model.unimodal(absent)[other])


@pytest.mark.parametrize("modalities, fusion, heads", CASES)
@pytest.mark.parametrize("mean", [False, True])
def test_nothing_missing_is_the_methods_own_output_bit_for_bit(outputs, modalities, fusion, heads, mean):
    model, output = outputs(modalities, fusion, heads)
    output.logits = output.logits / 3  # a method may make something of the fused logits
    fill = {name: feature.mean(dim=0) for name, feature in output.features.items()} if mean else None
    found = without(model, output, draw_present(modalities, {"audio": 0.0}, COUNT, seed=1), fill)
    assert torch.equal(found.logits, output.logits) and found.target is output.target
    assert all(torch.equal(found.unimodal[name], output.unimodal[name]) for name in modalities)


@pytest.mark.parametrize("modalities, fusion, heads", CASES)
@pytest.mark.parametrize("mean", [False, True])
def test_every_sample_is_read_by_what_it_has(outputs, modalities, fusion, heads, mean):
    model, output = outputs(modalities, fusion, heads)
    fill = {name: feature.mean(dim=0) for name, feature in output.features.items()}
    present = draw_present(modalities, dict.fromkeys(modalities, 0.5), COUNT, seed=2)
    found = without(model, output, present, fill if mean else None)
    seen = set()
    for i in range(COUNT):
        there = [name for name in modalities if present[name][i]]
        seen.add(tuple(there))
        row = {
            name: output.features[name][i : i + 1]
            if name in there
            else (fill[name][None] if mean else torch.zeros(1, model.dims[name], dtype=torch.float64))
            for name in modalities
        }
        wanted = model.fuse(row) if mean or len(there) != 1 else model.unimodal(row)[there[0]]
        torch.testing.assert_close(found.logits[i : i + 1], wanted, rtol=1e-10, atol=1e-10)
    assert len(seen) == 2 ** len(modalities)


def test_the_only_modality_of_a_model_is_its_fused_prediction(outputs):
    model, output = outputs(("audio",), heads=True)
    found = without(model, output, draw_present(("audio",), {}, COUNT, seed=1))
    assert torch.equal(found.logits, output.logits) and not torch.equal(output.logits, output.unimodal["audio"])


def test_what_is_missing_is_drawn_for_each_modality_by_seed_and_place_alone():
    count, rates = 4000, {"audio": 0.3, "visual": 0.7, "depth": 0.0}
    present = draw_present(THREE, rates, count, seed=1)
    for name, rate in rates.items():
        assert abs((~present[name]).sum().item() - rate * count) <= 4 * (count * rate * (1 - rate)) ** 0.5
    both = (~present["audio"] & ~present["visual"]).sum().item()
    assert abs(both - 0.21 * count) < 4 * (0.21 * 0.79 * count) ** 0.5
    alone = draw_present(("visual",), rates, 100, seed=1)["visual"]  # another model, a shorter split
    assert torch.equal(alone, present["visual"][:100])
    assert not torch.equal(alone, draw_present(("visual",), rates, 100, seed=2)["visual"])
    more = draw_present(THREE, rates | {"audio": 0.6}, count, seed=1)["audio"]
    assert (more <= present["audio"]).all()  # who lacks it at a low rate lacks it at a higher one


# --- Conflict

SEEDS = range(1, 4)


class Marked(TinyData):
    """The first pixel says which sample an input is of."""

    def __init__(self, modalities=THREE, count=300):
        super().__init__(modalities, count)
        for images in self.images.values():
            images[:, 0, 0, 0] = torch.arange(count)

    def origin(self, inputs):
        return {name: int(x[0, 0, 0]) for name, x in inputs.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_conflict_is_one_modality_of_another_class(seed):
    data = Marked()
    conflicting = Conflicting(data, 0.4, THREE, seed)
    swapped = []
    for i in range(len(data)):
        inputs, target, position = conflicting[i]
        assert (target, position) == (data.targets[i], i) and tuple(inputs) == THREE
        others = {name: origin for name, origin in data.origin(inputs).items() if origin != i}
        assert len(others) <= 1
        for name, origin in others.items():
            assert data.targets[origin] != target
            assert torch.equal(inputs[name], data.images[name][origin])
            swapped.append((name, data.targets[origin], target))
    assert abs(len(swapped) - 0.4 * 300) <= 4 * (300 * 0.4 * 0.6) ** 0.5
    for name in THREE:
        assert abs(sum(one == name for one, _, _ in swapped) - len(swapped) / 3) <= 4 * (len(swapped) * 2 / 9) ** 0.5
    assert {(a, b) for _, a, b in swapped} == set(itertools.permutations(range(CLASSES), 2))


def test_conflicts_are_those_of_every_model_and_rate():
    data, alone = Marked(), Marked(("visual",))
    whole, partial, less = (
        Conflicting(*options, seed=1) for options in ((data, 0.8, THREE), (alone, 0.8, THREE), (data, 0.2, THREE))
    )

    def of(source, i):
        return source.data.origin(source[i][0])

    assert [of(whole, i)["visual"] for i in range(300)] == [of(partial, i)["visual"] for i in range(300)]
    struck = [{i for i in range(300) if set(of(source, i).values()) != {i}} for source in (less, whole)]
    assert struck[0] < struck[1]
    assert all(of(less, i) == of(whole, i) for i in struck[0])
    assert all(set(of(Conflicting(data, 0.0, THREE, 1), i).values()) == {i} for i in range(300))
    assert any(of(whole, i) != of(Conflicting(data, 0.8, THREE, 2), i) for i in range(300))


def test_one_class_has_no_conflict():
    data = Marked()
    data.targets = [1] * len(data)
    with pytest.raises(RunError, match="one class only"):
        Conflicting(data, 0.5, THREE, 1)


# --- Contribution


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_contributions_are_means_over_the_orders_of_joining(count):
    names = ("audio", "visual", "depth", "text")[:count]
    draws = np.random.default_rng(count)
    accuracy = {frozenset(some): draws.random() for some in subsets(names)}
    assert len(accuracy) == 2**count
    found = contributions({some: accuracy[frozenset(some)] for some in subsets(names)}, names)
    wanted = dict.fromkeys(names, 0.0)
    orders = list(itertools.permutations(names))
    for order in orders:
        for place, name in enumerate(order):
            gain = accuracy[frozenset(order[: place + 1])] - accuracy[frozenset(order[:place])]
            wanted[name] += gain / len(orders)
    assert found == pytest.approx(wanted, rel=1e-12)
    assert sum(found.values()) == pytest.approx(accuracy[frozenset(names)] - accuracy[frozenset()], rel=1e-12)


def test_two_modalities_by_hand():
    accuracy = {(): 0.1, ("audio",): 0.7, ("visual",): 0.3, ("audio", "visual"): 0.8}
    found = contributions(accuracy, ("audio", "visual"))
    assert found == pytest.approx({"audio": 0.55, "visual": 0.15})  # (0.6 + 0.5) / 2 and (0.2 + 0.1) / 2


# --- All of it, whatever the loader does


class Shuffled(MultimodalDataset):
    """`data` in another order; a sample keeps its position."""

    def __init__(self, data):
        self.data, self.targets = data, data.targets[::-1]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data[len(self.data) - 1 - i]


def test_logits_depend_neither_on_batches_nor_on_workers_nor_on_the_order(outputs):
    model, _ = outputs(THREE)
    present = draw_present(THREE, dict.fromkeys(THREE, 0.4), COUNT, seed=1)

    def forward(batch):
        features = model.encode(batch.inputs)
        return Output(model.fuse(features), model.unimodal(features), features, batch.target)

    predict = missing(model, forward, present, every_subset=True)
    data = Conflicting(TinyData(THREE, COUNT), 0.5, THREE, seed=1)
    found = []
    for batch_size, workers, source in ((COUNT, 0, data), (7, 2, data), (9, 0, Shuffled(data))):
        rows = {}
        for batch in make_loader(source, batch_size, workers):
            output = predict(batch)
            assert [names for names in output.unimodal if isinstance(names, tuple)] == subsets(THREE)
            heads = [output.logits, *output.unimodal.values()]
            rows |= {int(i): torch.stack([z[n] for z in heads]) for n, i in enumerate(batch.index)}
        found.append(torch.stack([rows[i] for i in range(COUNT)]))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-12, atol=1e-12)


# --- The script


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
    assert line == ["accuracy", f"{clean:.2%}", f"{mean:.2%}", "0.00%", f"{clean - mean:.2%}"]


@pytest.mark.parametrize(
    "words, said",
    [
        ("--eval_noise smell:snr:0", "--eval_noise 'smell:snr:0': the modalities are audio, visual"),
        ("--eval_noise audio:jpeg:1", "the kinds of audio are snr, gaussian"),
        ("--eval_noise audio:snr:0 --eval_noise audio:snr:5", "audio:snr is asked for more than once"),
        ("--eval_missing smell:0.5", "--eval_missing smell:0.5: the modalities are audio, visual"),
        ("--eval_missing audio:1.5", "--eval_missing audio:1.5: '1.5' is not a probability"),
        ("--eval_missing audio", "--eval_missing audio: '' is not a probability"),
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
