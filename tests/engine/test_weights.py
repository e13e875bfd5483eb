"""Encoders that start from a file, and encoders that stay as they are: --weights and --freeze."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from helpers.acting import acting
from helpers.runs import NARROW, checkpoint, differing, flags, rows_of, train
from helpers.three import Three

import main as program
from dataset.demo import Demo
from dataset.registry import DATASETS
from engine.parser import parse
from engine.setup import make_method
from methods import METHODS
from models.encoders import ResNet18
from models.weights import for_channels, load_weights
from scripts import ensemble, linear_probe
from scripts.kill import differences
from scripts.trained.gradients import measure
from utils.errors import RunError


def public(path, legacy=False, without=(), **more):
    """A state dict with a classifier, as torchvision publishes them, of a narrow ResNet-18; returns its tensors."""
    torch.manual_seed(5)
    state = NARROW["visual"]().state_dict() | {"fc.weight": torch.randn(1000, 64), "fc.bias": torch.randn(1000)}
    state = {n: t for n, t in (state | more).items() if not any(word in n for word in without)}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return state


def encoder_of(model, name):
    prefix = f"encoders.{name}."
    return {key.removeprefix(prefix): value for key, value in model.items() if key.startswith(prefix)}


def refused(start):
    with pytest.raises(RunError) as stopped:
        start()
    message = str(stopped.value)
    assert "\n" not in message, message
    return message


# --- What a file is read as


@pytest.mark.parametrize("name, legacy", [("r.pth", False), ("r.pth", True), ("r.safetensors", False)])
def test_torchvisions_files_fit_without_their_classifier(tmp_path, name, legacy):
    counts = ("num_batches_tracked",) if legacy else ()  # PyTorch's older batch norms do not count
    state = public(tmp_path / name, legacy=legacy, without=counts)
    encoder = NARROW["visual"]()
    sha256, left_out = load_weights(encoder, "visual", tmp_path / name)
    assert left_out == ["fc.weight", "fc.bias"] or left_out == ["fc.bias", "fc.weight"]
    assert len(sha256) == 64
    loaded = encoder.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in loaded.keys() & state.keys())
    assert len(loaded.keys() - state.keys()) == (20 if legacy else 0)


def test_torchvisions_resnet_is_ours_by_every_name(tmp_path):
    """The whole ResNet-18: the features are those of torchvision's own."""
    import torchvision

    theirs = torchvision.models.resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "r.pth")
    ours = ResNet18(channels=3)
    load_weights(ours, "visual", tmp_path / "r.pth")
    theirs.fc = torch.nn.Identity()
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(pictures), theirs(pictures), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_grey_picture_gives_the_same_in_any_number_of_channels(channels):
    weight, grey = torch.randn(4, 3, 5, 5, dtype=torch.float64), torch.randn(2, 1, 9, 9, dtype=torch.float64)
    before = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    made = for_channels(weight, channels)
    assert made.shape == (4, channels, 5, 5)
    torch.testing.assert_close(torch.nn.functional.conv2d(grey.expand(-1, channels, -1, -1), made), before)
    if channels == 1:
        assert torch.equal(made, weight.sum(dim=1, keepdim=True))
    if channels == 2:
        torch.testing.assert_close(made, weight.mean(dim=1, keepdim=True).mul(1.5).expand(-1, 2, -1, -1))
    if channels == 3:
        assert made is weight


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class Code:
    pass


FAULTS = {
    "missing": (lambda p: None, ["does not exist"]),
    "a folder": (lambda p: p.mkdir(), ["cannot be read", "not a file"]),
    "empty": (lambda p: p.write_bytes(b""), ["cannot be read"]),
    "text": (lambda p: p.write_text("hello"), ["cannot be read", "torchvision"]),
    "cut": (lambda p: (public(p), cut(p)), ["cannot be read"]),
    "a flipped bit": (lambda p: (public(p), flip(p)), ["cannot be read"]),
    "code": (lambda p: torch.save({"a": Code()}, p), ["cannot be read", "other things than tensors"]),
    "a list": (lambda p: torch.save([torch.ones(1)], p), ["holds no tensors by name"]),
    "wrapped": (lambda p: torch.save({"state_dict": {}}, p), ["holds no tensors by name"]),
    "a key less": (lambda p: public(p, without=["layer3.1.conv2"]), ["layer3.1.conv2.weight is missing", "--encoder"]),
    "a key more": (lambda p: public(p, odd=torch.ones(1)), ["it has odd, which the encoder has not"]),
    "another shape": (lambda p: public(p, **{"bn1.weight": torch.ones(9)}), ["bn1.weight is (9,), not (8,)"]),
    "another stem": (lambda p: public(p, **{"conv1.weight": torch.ones(8, 4, 7, 7)}), ["4, 7, 7), not (8, 3, 7, 7)"]),
    "NaN": (lambda p: public(p, **{"bn1.bias": torch.full((8,), torch.nan)}), ["bn1.bias has numbers", "not finite"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_one_sentence_and_changes_nothing(tmp_path, fault):
    make, said = FAULTS[fault]
    path = tmp_path / "w.pth"
    make(path)
    encoder = NARROW["visual"]()
    before = {name: t.clone() for name, t in encoder.state_dict().items()}
    message = refused(lambda: load_weights(encoder, "visual", path))
    assert all(words in message for words in (*said, "--weights visual", str(path))), message
    assert differing(before, encoder.state_dict()) == []


def test_damaged_safetensors_are_one_sentence(tmp_path):
    path = tmp_path / "w.safetensors"
    public(path)
    cut(path)
    assert "cannot be read" in refused(lambda: load_weights(NARROW["visual"](), "visual", path))


# --- Runs


def test_a_run_starts_from_its_weights_and_says_so(demo, tmp_path, capsys):
    state = public(tmp_path / "r.pth")
    more = ["--method", "joint", "--epochs", "1", "--lr", "1e-30"]
    weights = [f"--weights={name}={tmp_path}/r.pth" for name in ("audio", "visual")]
    folder = train(demo, tmp_path, *more, *weights, encoders=NARROW)
    found = checkpoint(folder)["model"]
    assert torch.equal(found["encoders.visual.conv1.weight"], state["conv1.weight"])
    assert torch.equal(found["encoders.audio.conv1.weight"], state["conv1.weight"].sum(dim=1, keepdim=True))
    assert torch.equal(found["encoders.audio.layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    said = capsys.readouterr().out
    assert f"the encoder of audio starts from {tmp_path}/r.pth, sha256 " in said
    assert "without its classifier (fc.weight, fc.bias)" in said
    args = json.loads((folder / "args.json").read_text())
    sha256 = args["provenance"][0]["weights"]
    assert sha256.keys() == {"audio", "visual"} and len(sha256["audio"]) == 64
    assert args["weights"] == [f"audio={tmp_path}/r.pth", f"visual={tmp_path}/r.pth"]


def test_the_tag_names_the_file_and_not_its_folder():
    tag = parse(["--method", "joint", "--weights", "visual=/a/b/r.pth", "--weights", "audio=c/x.pt"]).tag
    assert tag == parse(["--method", "joint", "--weights=audio=d/x.pt", "--weights=visual=r.pth"]).tag
    assert tag == "weights=audio=x.pt+visual=r.pth"
    assert parse("--method joint --freeze visual --freeze audio --freeze visual".split()).tag == "freeze=audio+visual"


def test_a_run_goes_on_with_its_weights_wherever_they_lie_and_with_no_others(demo, tmp_path):
    public(tmp_path / "r.pth")
    more = ["--method", "relearning", "--every", "1", "--held_out", "0.17", "--epochs", "2"]
    start = lambda place, *flags: train(  # noqa: E731
        demo, tmp_path, *more, f"--weights=visual={place}/r.pth", *flags, encoders=NARROW
    )
    folder = start(tmp_path, "--freeze", "audio")
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "r.pth", tmp_path / "moved" / "r.pth")
    start(tmp_path / "moved", "--freeze", "audio", "--resume")
    assert "another setting (--freeze was ['audio'], is None)" in refused(lambda: start(tmp_path / "moved", "--resume"))
    (tmp_path / "other").mkdir()
    public(tmp_path / "other" / "r.pth", **{"bn1.weight": torch.full((8,), 2.0)})
    message = refused(lambda: start(tmp_path / "other", "--freeze", "audio", "--resume"))
    assert f"{folder} holds a run that began with other weights of visual" in message


def test_a_checkpoint_of_ours_gives_the_encoder_of_that_modality(demo, tmp_path):
    audio = train(demo, tmp_path, "--method", "unimodal", "--modality", "audio", "--epochs", "1", "--lr", "0.1")
    start = lambda out, *more: train(  # noqa: E731
        demo, tmp_path / out, "--method", "joint", "--epochs", "1", "--lr", "1e-30", *more
    )
    folder = start("joint", f"--weights=audio={audio}/last.pt")
    one, other = checkpoint(audio)["model"], checkpoint(folder)["model"]
    weights = [name for name in encoder_of(one, "audio") if "num" not in name and "running" not in name]
    assert all(torch.equal(encoder_of(one, "audio")[n], encoder_of(other, "audio")[n]) for n in weights)
    assert "has encoders of audio, not of visual" in refused(lambda: start("x", f"--weights=visual={audio}/last.pt"))
    flip(audio / "last.pt")
    assert "its sha256 is not in checksums.txt" in refused(lambda: start("y", f"--weights=audio={audio}/last.pt"))


@pytest.mark.parametrize(
    "argv, said",
    [
        ("--weights smell=x.pth", "--weights smell: demo has audio, visual"),
        ("--freeze smell", "--freeze smell: demo has audio, visual"),
        ("--weights audio=x.pth --weights audio=y.pth", "--weights audio is given twice: x.pth and y.pth"),
    ],
)
def test_what_makes_no_sense_is_refused(argv, said):
    assert refused(lambda: make_method(parse(["--dataset", "demo", "--method", "joint", *argv.split()]))) == said


def test_a_word_without_a_file_is_refused(capsys):
    for word in ("audio", "=x", "audio="):
        with pytest.raises(SystemExit):
            parse(["--weights", word])
        assert "is not MODALITY=FILE" in capsys.readouterr().err


# --- Frozen encoders


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setitem(DATASETS, "three", Three)


def tensors(module):
    return {name: t.clone() for name, t in module.state_dict().items()}


@pytest.mark.parametrize("frozen", [["audio"], ["audio", "visual"]], ids=len)
@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_encoder_stays_bit_for_bit_and_the_rest_learns(demo, tmp_path, monkeypatch, method, frozen):
    made = {}
    monkeypatch.setattr(program, "make_method", lambda args: made.setdefault(0, make_method(args)))
    words = [word for name in frozen for word in ("--freeze", name)]
    make_optimizer, grouped = program.make_optimizer, []

    def optimizer(args, model):
        made[1] = tensors(model)
        grouped.append(make_optimizer(args, model))
        return grouped[-1]

    monkeypatch.setattr(program, "make_optimizer", optimizer)
    folder = train(demo, tmp_path, *acting(method, *words, "--epochs", "3", "--weight_decay", "0.1"))
    model, before = made[0].model, made[1]
    here = [name for name in frozen if name in model.modalities]
    changed = differing(before, checkpoint(folder)["model"])
    for name in model.modalities:
        moved = [key for key in changed if key.startswith(f"encoders.{name}.")]
        assert (moved == []) == (name in here), moved
    assert [key for key in changed if key.startswith(("fusion.", "heads."))]
    held = {id(p) for group in grouped[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    for row in rows_of(folder):
        for name in here:
            assert row["fisher_trace"][name] == row["gradient_norm"][name] == 0
            for column, none in {"regulated": 0, "alpha": None, "curated": 0, "reset": 0}.items():
                assert row.get(column, {}).get(name) in (none, None), column


@pytest.mark.parametrize("method, fusion", [("inforeg", "sum"), ("greedy", "sum"), ("greedy", "concat")])
def test_one_of_three_is_frozen_and_the_others_are_still_regulated(three, tmp_path, method, fusion):
    argv = ["--dataset", "three", *acting(method), "--freeze", "audio", "--epochs", "3", "--workers", "0"]
    argv += ["--device", "cpu", "--out", str(tmp_path), "--tag", "test", "--fusion", fusion]
    if method == "greedy":
        argv += ["--epsilon", "0"]
    program.main(argv)
    rows = rows_of(tmp_path / "three" / method / "test" / "seed0")
    column = {"inforeg": "regulated", "greedy": "curated"}[method]
    assert all(row[column]["audio"] == 0 for row in rows)
    assert any(row[column][name] > 0 for row in rows for name in ("visual", "depth"))
    assert all(row["fisher_trace"]["audio"] == 0 < row["fisher_trace"]["depth"] for row in rows)


def test_a_frozen_run_resumes_is_probed_averaged_and_its_gradients_are_compared(demo, tmp_path, monkeypatch):
    public(tmp_path / "r.pth")
    more = ["--weights", f"visual={tmp_path}/r.pth", "--freeze", "visual"]
    whole = train(demo, tmp_path / "whole", "--method", "inforeg", *more, "--epochs", "3", encoders=NARROW)
    after, steps = METHODS["inforeg"].after_backward, []

    class Stopped(Exception):
        pass

    def stop(self, output):
        after(self, output)
        steps.append(1)
        if len(steps) == 5:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(METHODS["inforeg"], "after_backward", stop)
        train(demo, tmp_path, "--method", "inforeg", *more, "--epochs", "3", encoders=NARROW)
    folder = train(demo, tmp_path, "--method", "inforeg", *more, "--epochs", "3", "--resume", encoders=NARROW)
    assert differences(whole, folder) == []
    alone = [
        train(demo, tmp_path, *acting("unimodal", "--modality", m, "--tag", m, *more, "--epochs=1"), encoders=NARROW)
        for m in ("audio", "visual")
    ]
    (tmp_path / "r.pth").unlink()  # a trained model needs it no more
    monkeypatch.setattr(Demo, "encoders", lambda args: NARROW)
    places = ["--device", "cpu", "--workers", "0"]
    assert linear_probe.main([str(folder / "last.pt"), *places]).keys() == {"audio", "visual"}
    result = ensemble.main([str(f / "last.pt") for f in alone] + [*places, "--out", str(tmp_path / "e")])
    assert 0 <= result["accuracy"] <= 1
    args = parse([*flags(demo, tmp_path), "--method", "joint"])
    vars(args).update(device="cpu", workers=0, data_root=None)
    assert measure(folder / "last.pt", args, batches=2).cosines.keys() == {"audio", "visual"}


def test_batch_norm_of_several_processes_leaves_a_frozen_one_alone(demo, tmp_path):
    more = ["--method", "joint", "--freeze", "audio", "--epochs", "1"]
    one, other = (train(demo, tmp_path / name, *more, *sync) for name, sync in (("a", []), ("b", ["--sync_bn"])))
    assert differing(checkpoint(one)["model"], checkpoint(other)["model"]) == []
