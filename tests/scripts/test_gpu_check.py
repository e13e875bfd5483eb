"""The check of a GPU, on a CPU with tiny sizes: what is wrong is named, and the other parts go on."""

import ast
import json
import time
from dataclasses import replace

import pytest
import torch
from helpers.places import ROOT
from helpers.runs import SMALL

from dataset.cremad import CREMAD
from methods import METHODS
from methods.base import Method
from scripts import gpu_check
from scripts.benchmarks import generated, gpu
from utils.errors import RunError

CPU = torch.device("cpu")
TINY = "--batch_size 4 --image_size 8 --frames 1 --workers 0".split()


class Reads(Method):
    def after_backward(self, output):
        super().after_backward(output)
        self.read = output.logits.sum().item()


class Fails(Method):
    def losses(self, output):
        raise RuntimeError("first line\nsecond line")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(CREMAD, "encoders", lambda args: SMALL)
    monkeypatch.setattr(CREMAD, "audio", replace(CREMAD.audio, sample_rate=800, seconds=1.0, n_fft=16, hop=100))
    monkeypatch.setattr(generated, "SIZE", (12, 9))
    monkeypatch.setattr(gpu, "SMALL", TINY)
    monkeypatch.setattr(gpu, "SEEDS", 2)
    monkeypatch.setattr(gpu, "LEAST_ROUNDS", 1)


@pytest.fixture
def call(tmp_path):
    """call(*words): the status, what the file holds, and the rows."""

    def call(*words):
        file = tmp_path / "found.json"
        status = gpu_check.main(["--device", "cpu", "--json", str(file), "--train", "9", "--test", "5", *TINY, *words])
        return status, json.loads(file.read_text()), file.with_suffix(".md").read_text()

    return call


def test_every_part_and_what_is_wrong_in_one_of_them(call, monkeypatch, capsys):
    monkeypatch.setitem(METHODS, "reads", Reads)
    monkeypatch.setitem(METHODS, "fails", Fails)
    evaluated = []
    monkeypatch.setattr(gpu, "evaluate_splits", lambda run, method, splits: evaluated.append(len(splits["test"])))
    status, found, rows = call("--methods", "joint", "fails", "reads", "agm")
    parts = found["parts"]
    assert (status, found["ok"], list(parts)) == (1, False, list(gpu.PARTS))
    waits = "a step of reads waits: the host reads 1 value(s)"
    assert parts["steps"].pop("wrong") == ["fails: RuntimeError: first line", waits]
    assert {name: part["wrong"] for name, part in parts.items() if name != "steps"} == {
        name: [] for name in parts if name != "steps"
    }
    assert f"steps: fails: RuntimeError: first line; {waits} (" in capsys.readouterr().out
    assert [row["method"] for row in parts["steps"]["table"]] == ["joint", "reads", "agm"]
    assert [row["--cache"] for row in parts["caches"]["table"]] == ["disk", "device"]
    assert parts["caches"]["device"]["samples"] == 9
    assert parts["agreement"]["inforeg"]["weights"] == 0  # a CPU beside itself
    assert 0 < abs(parts["agreement"]["joint, bf16"]["gap"]) < gpu.ROUNDED
    assert len(parts["epochs"]["inforeg, bf16"]["seconds"]) == gpu.TIMED and evaluated == [5] * 4 * gpu.TIMED
    assert "## For docs/PERFORMANCE.md" in rows and "| agm |" in rows and "| table2 | 24 | 1200 |" in rows


def test_a_part_that_fails_or_takes_too_long_keeps_what_it_has_and_the_next_goes_on(call, monkeypatch):
    def slow(check, found):
        found["table"] = [{"a": "1"}]
        yield "found before"
        try:
            time.sleep(30)
        except Exception:  # as a part catches what fails in one of its rows
            yield "a row failed"

    def failing(check, found):
        raise RunError("no room")
        yield

    def fine(check, found):
        found["device"] = check.device.type
        yield from ()

    monkeypatch.setattr(gpu_check, "PARTS", {"slow": (slow, 1), "failing": (failing, 9), "fine": (fine, 9)})
    for part in (slow, failing, fine):
        part.__doc__ = part.__name__
    status, found, rows = call()
    wrong = {name: part["wrong"] for name, part in found["parts"].items()}
    assert status == 1 and "| 1 |" in rows
    assert wrong == {"slow": ["found before", "not done after 1 s"], "failing": ["RunError: no room"], "fine": []}
    assert 1 <= found["parts"]["slow"]["seconds"] < 20 and found["parts"]["fine"]["device"] == "cpu"
    assert call("--parts", "fine")[0] == 0


def check_of(full=False):
    return gpu.Check(CPU, TINY, ["joint"], 9, 5, full)


def test_what_is_too_far_apart_is_named(monkeypatch):
    one = {"loss": [2.0, 1.0], "fisher_trace": [{"a": 1.0, "b": 4.0}], "prime_window": [{"a": False}, {"a": True}]}
    one["weights"] = [torch.zeros(4), torch.full((4,), 2.0)]
    other = {"loss": [2.1, 2.0], "fisher_trace": [{"a": 1.0, "b": 5.0}], "prime_window": [{"a": False}, {"a": False}]}
    other["weights"] = [torch.zeros(4), torch.full((4,), 3.0)]
    gaps = gpu.apart(one, other)
    assert gaps["loss"] == pytest.approx(0.05) and (gaps["fisher_trace"], gaps["weights"]) == (0.25, 0.5)
    monkeypatch.setattr(gpu, "COMPARED", ("joint",))
    turns = iter([one, other] * (1 + gpu.SEEDS))
    monkeypatch.setattr(gpu, "trained", lambda argv: next(turns))
    found = {}
    said = list(gpu.agreement(check_of(), found))
    assert [sentence.split(", more")[0] for sentence in said] == [
        "joint: CPU and GPU are 0.05 apart in loss",
        "joint: CPU and GPU are 0.25 apart in fisher_trace",
        "joint: CPU and GPU are 0.5 apart in weights",
        "joint: CPU and GPU have other prime learning windows open",
        "joint: the loss in bf16 is +100.0% from that in fp32",
    ]
    assert found["joint, bf16"]["epochs with the same windows"] == "2 of 4"


@pytest.mark.parametrize("full", [False, True])
def test_the_hours_of_a_run_are_those_of_its_epochs(monkeypatch, full):
    taken = []

    def epoch_of(run, method, test):
        taken.append(run.epoch)
        return (9.0, 1.0) if run.epoch == 0 else (3.0, 1.0)

    monkeypatch.setattr(gpu, "epoch_of", epoch_of)
    found = {}
    assert not list(gpu.epochs(check_of(full), found))
    for kind in ("joint, fp32", "inforeg, fp32", "joint, bf16", "inforeg, bf16"):
        assert found[kind]["hours"] == pytest.approx((10 + 49 * 4) / 3600)
    whole = [row["run to its end, hours"] for row in found["table"]]
    assert whole == ["-", "-", "-", "0.057" if full else "-"]
    assert taken == [0, 1, 2] * 3 + list(range(50 if full else 3))


def test_crops_that_differ_are_named(monkeypatch):
    turns = iter([torch.zeros(3), torch.tensor([0.0, -2.0, 1.0])])
    monkeypatch.setattr(gpu, "crops", lambda *_: next(turns))
    monkeypatch.setattr(gpu, "KINDS", {})
    assert list(gpu.caches(check_of(), {})) == ["crops on the GPU differ from those on the CPU by 2 grey levels"]


def test_within_float32_is_float32():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    with gpu.exact():
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic) == (False, False, True)
    assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic) == before


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="--device cuda: PyTorch finds no CUDA device; use --device cpu$"):
        gpu_check.main([])


def test_the_parts_take_nine_minutes_together():
    assert sum(seconds for _, seconds in gpu.PARTS.values()) <= 9 * 60


def loaded(path, seen):
    """The libraries that a file and all files of ours that it imports load at once; `seen` are these files."""
    seen.add(path)
    libraries = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = ROOT / name.replace(".", "/")
            ours = [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
            libraries |= {name.split(".")[0]} if not ours else set()
            for file in {*ours} - seen:
                libraries |= loaded(file, seen)
    return libraries


def test_nothing_that_decodes_is_loaded():
    """A machine with a GPU may have PyTorch and what comes with it, and no network to get the rest."""
    seen = set()
    libraries = loaded(ROOT / "scripts/gpu_check.py", seen) | loaded(ROOT / "dataset/registry.py", seen)
    assert {"torch", "numpy", "PIL"} <= libraries and len(seen) > 80
    assert not libraries & {"av", "braceexpand", "jinja2", "librosa", "matplotlib", "soundfile", "webdataset"}


def test_on_a_gpu_pytorch_itself_says_what_waits(monkeypatch):
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work():
        if modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    assert gpu.waits(torch.device("cuda"), work) == "RuntimeError: called a synchronizing CUDA operation"
    assert gpu.waits(torch.device("cuda"), lambda: None) is None
    assert modes == [0, "error", 0, "error", 0]
