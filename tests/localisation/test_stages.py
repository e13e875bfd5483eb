"""The two stages: losses against slow versions, what learns when, blindness for labels, and going on where one was."""

import copy
import json
import shutil
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.forked import finish, together
from helpers.localised import folder_of, localised, words
from helpers.runs import checkpoint, differing, rows_of
from helpers.two import TOLERANCE, same

from dataset.base import Batch
from engine.checkpoints import Checkpoints
from localisation import dictionary
from localisation.lines import StageLines
from localisation.mixture import Mixture
from localisation.model import build_localiser
from localisation.parser import parse
from localisation.scenes import Generated, Scenes
from localisation.solo import Solo
from localisation.stage import Located, Stage, told_apart
from localisation.training import make_optimizer, make_stage
from models.encoders import ConvNet
from scripts import localise
from utils.errors import RunError
from utils.runs.history import Epoch

KEPT: list[dict] = []  # the model after each pass of the first stage
BEGUN: list[torch.Tensor] = []  # the classifiers' weights as each round begins with them


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Both stages, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole")
    save, renew, read = Checkpoints.after_epoch, Solo._renew_heads, Stage.look

    def keep(checkpoints):
        KEPT.append(copy.deepcopy(checkpoints.run.model.state_dict()))
        save(checkpoints)

    def look(stage, run, data, fn):
        assert not data.train  # as evaluation sees clips, without augmentation
        return read(stage, run, data, fn)

    def begin(stage, run):
        renew(stage, run)
        heads = stage.model.heads.values()
        assert all(parameter not in run.optimizer.state for head in heads for parameter in head.parameters())
        assert all(parameter in run.optimizer.state for parameter in stage.model.embed_audio.parameters())
        assert not any(head.bias.any() for head in heads)
        BEGUN.append(torch.cat([head.weight.flatten() for head in heads]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "after_epoch", keep)
        patch.setattr(Solo, "_renew_heads", begin)
        patch.setattr(Stage, "look", look)
        localised("train-solo", folder)
    localised("train-mix", folder)
    return folder


@pytest.fixture(scope="module")
def solo(out):
    return folder_of(*words("train-solo", out))


@pytest.fixture(scope="module")
def mixture(out):
    return folder_of(*words("train-mix", out))


def test_the_loss_of_location_is_bce_of_the_largest_place():
    torch.manual_seed(0)
    own, other = torch.randn(5, 3, 4).double(), torch.randn(5, 3, 4).double()
    largest = torch.stack([x.sigmoid().flatten(1).max(dim=1).values for x in (own, other)]).flatten()
    expected = F.binary_cross_entropy(largest, torch.tensor([1.0] * 5 + [0.0] * 5).double())
    torch.testing.assert_close(told_apart(own, other), expected)


def test_pairs_are_counted_by_halves():
    own, other = torch.tensor([1.0, -1.0, 2.0]).view(3, 1, 1), torch.tensor([-3.0, 5.0, -1.0]).view(3, 1, 1)
    found = Located({}, torch.zeros(3), {"visual": own, "other": other}).right()
    assert found["pairs"].item() == (2 + 2) / 2


def test_the_loss_of_mixtures(mixture, solo, out):
    """The mean of the KL's terms over samples and classes, 1/K of `batchmean`'s; foreign frames by quarters."""
    stage = make_stage(parse("train-mix", words("train-mix", out, "--temperature", "0.5")[1:]))
    state = checkpoint(solo)["model"]
    for name, value in stage.model.state_dict().items():
        assert torch.equal(value, state[name])
    torch.manual_seed(1)
    shapes = {"audio": (3, 1, 48, 32), "visual": (3, 3, 32, 32), "other": (3, 3, 32, 32)}
    inputs = {name: torch.randn(shape) for name, shape in shapes.items()}
    stage.model.eval()
    output = stage.forward(Batch(inputs, torch.zeros(3, dtype=torch.long), torch.arange(3)))
    losses = stage.losses(output)
    model, v = stage.model, output.features["visual"]
    own = model.location(output.features["audio"], v).sigmoid()
    s = model.gain * torch.einsum("kc,bchw->bkhw", model.dictionary, v) * own[:, None]
    q = s.flatten(2).mean(dim=2).softmax(dim=1)
    p = (model.classify(output.features)["audio"] / 0.5).softmax(dim=1)  # no step has been made: F is the model
    category = sum(p[i, k] * (p[i, k] / q[i, k]).log() for i in range(3) for k in range(4)) / 12
    torch.testing.assert_close(losses["loss_category"], category)
    torch.testing.assert_close(category, F.kl_div(q.log(), p, reduction="batchmean") / 4)
    foreign = model.location(output.features["audio"], output.features["other"]).sigmoid()
    h = foreign.shape[1] // 2
    quarters = [foreign[:, y : y + h, x : x + h].flatten(1).max(dim=1).values for y in (0, h) for x in (0, h)]
    other = -torch.stack([(1 - quarter).log().mean() for quarter in quarters]).mean()
    location = (other - own.flatten(1).max(dim=1).values.log().mean()) / 2
    torch.testing.assert_close(losses["loss_location"], location)
    torch.testing.assert_close(losses["loss"], category + 0.5 * location)
    stage.args.no_suppression, stage.args.category_weight = True, 0.0
    other = stage.losses(output)
    assert other["loss_category"] != losses["loss_category"]
    torch.testing.assert_close(other["loss"], 0.5 * location)
    other["loss"].backward()
    assert model.gain.grad is None  # not 0, which weight decay would act on


def test_rounds_are_passes_of_the_loop(solo):
    args = parse("train-solo", ["--rounds", "4"])
    assert args.epochs == 10 and args.tag == "rounds=4"
    stage = make_stage(args)
    assert [stage.place_of(epoch) for epoch in range(10)] == [0, 0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert [epoch for epoch in range(10) if stage.ends_round(epoch)] == [0, 3, 6, 9]
    rows = rows_of(solo)
    assert ["pairs" in row["train"] for row in rows] == [True, True, False, True, False]
    assert ["clusters" in row for row in rows] == [False, True, False, True, False]
    assert ["IoU@0.5" in row["test"] for row in rows] == [True, False, True, False, True]


def test_what_learns_in_which_pass(solo):
    """Location leaves the classifiers alone, classification the map's heads; both teach the encoders."""
    for before, after, idle in ((0, 1, "heads."), (1, 2, "embed_"), (2, 3, "heads."), (3, 4, "embed_")):
        other = {name for name in differing(KEPT[before], KEPT[after]) if not name.startswith("dictionary")}
        assert not [name for name in other if name.startswith(idle)]
        assert any(name.startswith("encoders.audio") for name in other)
        assert any(name.startswith("encoders.visual") for name in other)
        assert any(name.startswith("embed_" if idle == "heads." else "heads.") for name in other)
    assert not KEPT[0]["dictionary"].any() and KEPT[1]["dictionary"].any()
    gain = 1 / KEPT[4]["dictionary"].square().sum(dim=1).mean()
    torch.testing.assert_close(KEPT[4]["gain"], gain)


def test_classifiers_begin_each_round_anew(solo):
    """With deviations of 0.01, no bias, and an optimizer that remembers nothing of them (`out` looks)."""
    assert len(BEGUN) == 2 and not torch.equal(*BEGUN)
    assert all(abs(weights.std() - 0.01) < 0.001 for weights in BEGUN)


def test_the_dictionary_is_of_the_encoders_as_they_are_at_the_end(out, solo):
    """Made anew after the last pass, from the clips in evaluation mode, with the clusters of the round."""
    state = checkpoint(solo)
    args = parse("train-solo", words("train-solo", out)[1:])
    model = make_stage(args).model
    model.load_state_dict(state["model"])
    model.eval()
    clips = Scenes.solo(args, "train")
    with torch.no_grad():
        items = [clips[i][0] for i in range(24)]
        features = model.encode({name: torch.stack([item[name] for item in items]) for name in ("audio", "visual")})
        location = model.location(features["audio"], features["visual"]).sigmoid()
        objects = dictionary.object_features(features["visual"], location)
    expected = dictionary.entries(objects, state["method"]["assigned"], 4)
    torch.testing.assert_close(model.dictionary, expected, rtol=1e-4, atol=1e-5)


def test_training_is_blind_for_labels_and_boxes(out, solo, mixture, tmp_path, monkeypatch):
    """With other labels and without any object the weights are the same; what is said of the clusters is not."""
    read = Scenes.solo.__func__

    def shuffled(cls, args, part):
        clips = read(cls, args, part)
        clips.labels = np.random.default_rng(0).permutation(clips.labels)
        return clips

    monkeypatch.setattr(Scenes, "solo", classmethod(shuffled))
    monkeypatch.setattr(Generated, "objects", lambda clips, position: ())
    blind = localised("train-solo", tmp_path)
    assert differing(checkpoint(blind)["model"], checkpoint(solo)["model"]) == []
    nmi = [[row["clusters"]["NMI"] for row in rows_of(folder) if "clusters" in row] for folder in (blind, solo)]
    assert nmi[0] != nmi[1]
    blind = localised("train-mix", tmp_path)
    assert differing(checkpoint(blind)["model"], checkpoint(mixture)["model"]) == []


def stopped(command, out, after, monkeypatch):
    """A run that is sent SIGTERM after so many steps."""
    steps = []
    stage = Solo if command == "train-solo" else Mixture
    real = stage.after_backward

    def send(self, output):
        real(self, output)
        steps.append(output)
        if len(steps) == after:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(RunError, match="stopped by SIGTERM"):
        patch.setattr(stage, "after_backward", send)
        localised(command, out)


@pytest.mark.parametrize("after", [5, 8])  # of three steps a pass: in the second of location, in one of classification
def test_the_first_stage_goes_on_where_it_was(solo, tmp_path, monkeypatch, after):
    stopped("train-solo", tmp_path, after, monkeypatch)
    again = localised("train-solo", tmp_path, "--resume")
    assert rows_of(again) == rows_of(solo)
    assert differing(checkpoint(again)["model"], checkpoint(solo)["model"]) == []


def test_the_second_stage_goes_on_where_it_was(out, solo, mixture, tmp_path, monkeypatch):
    shutil.copytree(solo, tmp_path / solo.relative_to(out))
    stopped("train-mix", tmp_path, 3, monkeypatch)
    again = localised("train-mix", tmp_path, "--resume")
    assert rows_of(again) == rows_of(mixture)
    assert differing(checkpoint(again)["model"], checkpoint(mixture)["model"]) == []


def test_a_run_that_is_done_is_left_alone(out, solo, capsys):
    before = (solo / "last.pt").stat().st_mtime_ns
    localised("train-solo", out, "--resume")
    assert "already done" in capsys.readouterr().out and (solo / "last.pt").stat().st_mtime_ns == before
    with pytest.raises(RunError, match="holds a finished run: add --resume"):
        localised("train-solo", out)
    with pytest.raises(RunError, match="--lr was 0.001, is 0.5"):
        localised("train-solo", out, "--resume", "--lr", "0.5")


def test_a_second_stage_that_is_done_goes_on_for_longer(out, mixture, tmp_path):
    shutil.copytree(out, tmp_path / "copy")
    longer = localised("train-mix", tmp_path / "copy", "--resume", "--epochs", "3")
    rows = rows_of(longer)
    assert len(rows) == 3 and rows[:2] == rows_of(mixture)


def test_the_run_of_the_first_stage_is_checked(out, solo, tmp_path):
    def refusal(*more):
        with pytest.raises(RunError) as error:
            localised("train-mix", tmp_path, *more)
        return str(error.value)

    wanted = "give the folder of a finished train-solo, or run that first"
    assert refusal() == f"--solo {tmp_path}/scenes/solo/default/seed0 has no last.pt: {wanted}"
    held = tmp_path / "held"
    shutil.copytree(solo, held)
    (held / "done").unlink()
    assert refusal("--solo", str(held)) == f"--solo {held} is not finished: go on with it by --resume"
    assert "last.pt is a checkpoint of another model: " in refusal("--solo", str(solo), "--clusters", "3")
    (held / "checksums.txt").unlink()
    torch.save(checkpoint(held) | {"classes": ["tuba"]}, held / "last.pt")
    assert "data of the same categories" in refusal("--solo", str(held))
    mixture = folder_of(*words("train-mix", out))
    wanted = "give one of solo on scenes, or on data of the same categories"
    assert refusal("--solo", str(mixture)) == f"--solo {mixture} holds a run of mixture on scenes: {wanted}"
    (held / "last.pt").write_bytes(b"nothing")
    assert refusal("--solo", str(held)).startswith(f"--solo {held} cannot be used: its last.pt is damaged (")
    torch.save([1], held / "last.pt")
    assert refusal("--solo", str(held)) == f"--solo {held}: its last.pt is no checkpoint of this repository"


def test_a_stage_without_a_loss_is_refused(out):
    with pytest.raises(RunError, match="leave nothing to learn"):
        make_stage(parse("train-mix", words("train-mix", out, "--category_weight", "0", "--location_weight", "0")[1:]))


def test_a_second_stage_may_start_from_another(out, solo, mixture):
    """Its weights are taken; what is heard and how clusters are matched is still of the first stage."""
    more = ["--start_from", str(mixture), "--solo", str(solo)]
    args = parse("train-mix", words("train-mix", out, *more)[1:])
    stage, first = make_stage(args), checkpoint(solo)
    assert differing(stage.model.state_dict(), checkpoint(mixture)["model"]) == []
    for name, value in stage.encoder.state_dict().items():
        assert torch.equal(value, first["model"][f"encoders.audio.{name}"])
    before = build_localiser("convnet", 4, seed=0)
    before.load_state_dict(first["model"])
    with torch.no_grad():
        sound = torch.randn(2, 1, 48, 32)
        heard = before.eval().heads["audio"](before.encoders["audio"].maps(sound).amax(dim=(2, 3))).softmax(dim=1)
    stage.model.train()
    torch.testing.assert_close(stage.hear({"audio": sound}), heard)
    assert torch.equal(stage.model.dictionary, before.dictionary)  # no step moves it
    assert stage.matching == first["method"]["matching"] and stage.model.started_from.keys() == {"solo", "start_from"}
    with pytest.raises(RunError, match="holds a run of solo on scenes: give one of mixture"):
        make_stage(parse("train-mix", words("train-mix", out, "--start_from", str(solo))[1:]))


def test_an_encoder_may_start_from_a_file(tmp_path):
    encoder = ConvNet(3)
    torch.save(encoder.state_dict(), tmp_path / "weights.pth")
    more = ["--weights", f"visual={tmp_path}/weights.pth", "--freeze", "visual", "--head_lr", "0.5"]
    stage = make_stage(parse("train-solo", words("train-solo", tmp_path, *more)[1:]))
    found = stage.model.encoders["visual"]
    assert differing(found.state_dict(), encoder.state_dict()) == []
    assert found.stages[-1][0].stride == (1, 1) and not any(p.requires_grad for p in found.parameters())
    groups = make_optimizer(stage.args, stage.model).param_groups
    assert [group["lr"] for group in groups] == [1e-3, 0.5]
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in stage.model.heads.parameters()}
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for p in stage.model.parameters() if p.requires_grad}


def test_a_second_stage_goes_on_from_the_same_first_stage_alone(out, solo, tmp_path, monkeypatch):
    shutil.copytree(solo, tmp_path / solo.relative_to(out))
    stopped("train-mix", tmp_path, 1, monkeypatch)
    other = tmp_path / solo.relative_to(out)
    shutil.rmtree(other)
    localised("train-solo", tmp_path, "--rounds", "2", "--tag", "default")
    with pytest.raises(RunError, match="began with other weights of solo"):
        localised("train-mix", tmp_path, "--resume")


def test_two_processes_are_one(forked, tmp_path):
    """With synchronised batch norm: 24 clips in batches of 10, 10 and 4, 16 in batches of 10 and 6."""
    short = {"train-solo": ("--rounds", "2"), "train-mix": ("--epochs", "1")}
    folders = {}
    for count in (1, 2):
        jobs = [words(command, tmp_path / str(count), "--sync_bn", *more) for command, more in short.items()]
        finish(together(forked, count, f"from helpers.localised import main; main({jobs!r})"))
        folders[count] = [folder_of(*argv) for argv in jobs]
    for one, two in zip(folders[1], folders[2], strict=True):
        for alone, shared in zip(rows_of(one), rows_of(two), strict=True):
            same(alone, shared)
        alone, shared = checkpoint(one)["model"], checkpoint(two)["model"]
        for name, value in alone.items():
            torch.testing.assert_close(shared[name], value, rtol=TOLERANCE, atol=TOLERANCE)
        assert json.loads((one / "result.json").read_text()).keys() == {"last"}


def test_an_epoch_is_a_line_of_what_was_measured():
    lines = StageLines(26, ("IoU@0.5", "AUC"))
    location = Epoch(0, 0.1, {"loss": 0.5, "pairs": 0.25}, {"clusters": {"NMI": 1.0}}, {"test": {}})
    legend, header, line = lines.of(location, 3.4)
    assert header.split() == ["epoch", "loss", "pairs", "audio", "visual", "NMI", "IoU@0.5", "AUC", "s"]
    assert line.split() == ["1/26", "0.500", "25.0", "100.0", "3"] and len(line) == len(header) and len(legend) < 120
    named = Epoch(1, 0.1, {"loss": 0.5, "audio": 0.5, "visual": 1.0}, {}, {"test": {"IoU@0.5": 0.125, "AUC": 0.0}})
    (line,) = lines.of(named, 3.4)
    assert line.split() == ["2/26", "0.500", "50.0", "100.0", "12.5", "0.0", "3"]
    assert line.index("12.5") + 4 == header.index("IoU@0.5") + 7
    more = [lines.of(named, 3.4) for _ in range(24)]
    assert [len(lines) for lines in more] == [1] * 23 + [2]


def test_a_stage_says_what_it_is_for(capsys):
    for command in ("train-solo", "train-mix"):
        with pytest.raises(SystemExit) as end:
            localise.main([command, "--help"])
        assert end.value.code == 0 and "data set scenes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        localise.main(["train-mix", "--rounds", "2"])  # the other stage's
    assert "unknown argument --rounds\n" in capsys.readouterr().err
    for typed, meant in (("--epochs=1", "--rounds"), ("--round", "--rounds"), ("--batchsize", "--batch_size")):
        with pytest.raises(SystemExit):
            localise.main(["train-solo", typed])
        assert f"unknown argument {typed}; did you mean {meant}?\n" in capsys.readouterr().err
