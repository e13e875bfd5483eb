"""localise.py: numbers beside those of the reference maps, the contact sheet, and the study of both stages."""

import contextlib
import io
import json
import re
import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch
from helpers.localised import SHORT, SMALL

from localisation import STAGES, metrics
from localisation.evaluation import look, restore
from localisation.scenes import Scenes
from localisation.stage import objects_of
from scripts import localise
from scripts.experiments import localisation
from scripts.experiments.jobs import Job
from scripts.experiments.localisation import FIRST, SECOND
from scripts.results.folder import find_runs
from scripts.results.localisation import table
from scripts.trained.restore import rebuild
from utils.errors import RunError

FLAGS = ["--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study by one seed, each of whose jobs is a command in this process; its folder, what it says, its words."""
    out = tmp_path_factory.mktemp("study")

    def work_off(jobs, at_a_time):
        for job in jobs:
            assert job.done or job.ready
            localise.main(list(job.argv[1:]))
        return {}

    words = ["study", "--out", str(out), "--seeds", "0", *FLAGS, *SMALL.split()[: -len(FLAGS)]]
    words += ["--first", SHORT["train-solo"], "--second", SHORT["train-mix"]]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(localisation, "work_off", work_off)
        localise.main(words)
    return out, said.getvalue(), words


@pytest.fixture(scope="module")
def runs(study):
    """A run of each stage."""
    return [min(study[0].glob(f"scenes/{stage}/*/seed0"), key=lambda path: len(str(path))) for stage in STAGES]


@pytest.fixture
def places():
    return Namespace(data_root=None, workers=0, device=torch.device("cpu"))


def test_runs_are_measured_as_after_their_last_epoch(study, runs, capsys):
    solo, mixture = runs
    found = localise.main(["evaluate", str(mixture), *FLAGS])
    kept = json.loads((mixture / "result.json").read_text())["last"]
    own = found[f"scenes/mixture/{mixture.parent.name}"][0]
    assert own.keys() > {"CIoU@0.3", "AUC", "NSA", "AUROC", "recall"}
    assert own == pytest.approx({name: kept[name] for name in own})
    said = capsys.readouterr().out
    for name in ("uniform", "whole image", "centre box", f"class-agnostic map, scenes/mixture/{mixture.parent.name}"):
        assert f"| {name} |" in said
    assert found["uniform"][0]["NSA"] == 1 and found["whole image"][0]["NSA"] == 0
    (without,) = study[0].glob("scenes/mixture/*no_suppression=True*/seed0")
    (found,) = localise.main(["evaluate", str(without), *FLAGS])[f"scenes/mixture/{without.parent.name}"]
    kept = json.loads((without / "result.json").read_text())["last"]
    assert found == pytest.approx({name: kept[name] for name in found}) and found != own
    found = localise.main(["evaluate", str(solo), "--kind", "solo", *FLAGS])
    kept = json.loads((solo / "result.json").read_text())["last"]
    assert found[f"scenes/solo/{solo.parent.name}"][0]["AUC"] == pytest.approx(kept["AUC"])


def test_the_scale_sharpens_the_maps_alone(runs, places):
    trained = restore(runs[0], places)
    data = trained.test("mixed")
    soft, sharp = (look(trained, data, scale) for scale in (0.1, 30.0))
    assert np.array_equal(soft.location, sharp.location) and np.array_equal(soft.heard, sharp.heard)
    assert sharp.maps.max() > soft.maps.max()
    known = [k in trained.matching for k in range(6)]
    assert not soft.maps[:, [not value for value in known]].any()  # a category without a cluster has no map
    np.testing.assert_allclose(soft.maps.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(soft.heard.sum(axis=1), 1, rtol=1e-5)
    (found,) = localise.main(["evaluate", str(runs[0]), *FLAGS])[f"scenes/solo/{runs[0].parent.name}"]
    assert found["teacher_recall"] == metrics.recall(look(trained, data).heard, objects_of(data))


def test_a_run_that_goes_on_still_is_measured_with_a_warning(runs, places, tmp_path, capsys):
    restore(runs[0], places)
    assert "not finished" not in capsys.readouterr().err
    shutil.copy(runs[0] / "last.pt", tmp_path)
    restore(tmp_path, places)
    assert f"warning: {tmp_path} is not finished" in capsys.readouterr().err


def test_what_is_no_run_is_refused(runs, tmp_path, places):
    with pytest.raises(RunError, match=f"{tmp_path}/last.pt does not exist"):
        localise.main(["evaluate", str(tmp_path), *FLAGS])
    state = torch.load(runs[0] / "last.pt", weights_only=True)
    torch.save(state | {"method": {}}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="is no run of localise.py"):
        localise.main(["evaluate", str(tmp_path), *FLAGS])
    torch.save(state | {"method": state["method"] | {"matching": None}}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="knows no category of its clusters"):
        localise.main(["evaluate", str(tmp_path), *FLAGS])
    with pytest.raises(SystemExit):
        localise.main(["evaluate", str(runs[0]), "--shown"])
    with pytest.raises(RunError, match="last.pt is of --dataset scenes, which main.py does not have"):
        rebuild(state, runs[0] / "last.pt", places)
    for kind in ("--solo", "--mixed"):
        with pytest.raises(SystemExit):
            localise.main(["draw", str(runs[0]), kind, "0"])


def test_a_study_makes_its_runs_tables_and_sheet(study, monkeypatch):
    out, said, words = study
    assert said.count("written to ") == 1 + len(SECOND)
    text = (out / "tables/localisation_scenes.md").read_text()
    assert text in said
    for row in (FIRST, *SECOND, "uniform"):
        assert f"\n| {row} |" in text
    assert "\n| both stages, c = 10 |" in text and "\n| l after the first stage |" in text
    assert (out / "figures/localisation_scenes.svg").exists()
    assert find_runs(out) == ({}, [])  # the tables of classifiers are not theirs
    monkeypatch.setattr(localisation, "work_off", lambda jobs, at_a_time: {job: "no" for job in jobs if not job.done})
    with pytest.raises(SystemExit, match="1"):
        localise.main([*words, "--batch_size", "9"])
    (folder,) = out.glob("scenes/solo/*/seed0")
    shutil.copytree(folder, other := folder.with_name("seed1"))
    monkeypatch.setattr(Job, "done", True)
    with pytest.raises(RunError, match=f"{re.escape(str(other))} lies in the place of another run"):
        localise.main([*words, "--seeds", "0", "1"])
    shutil.rmtree(other)


def test_tables_have_means_and_deviations():
    told = table({"a": [{"x": 0.1, "frames": 3}, {"x": 0.2}, {"x": 0.6}], "b": [{"y": 1.0}]})
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in told.splitlines()]
    assert lines == [["", "x", "y"], ["---"] * 3, ["a", "30.0 +- 26.5", "-"], ["b", "-", "100.0"]]


def test_the_commands_are_named(capsys):
    with pytest.raises(SystemExit) as end:
        localise.main(["train"])
    assert end.value.code == 2 and "train-solo" in capsys.readouterr().err
    assert Scenes.recipes.keys() == {"solo", "mixture"}


def test_whoever_calls_it_still_has_numbers_below_the_normal_ones():
    with pytest.raises(SystemExit):
        localise.main(["evaluate", "--help"])
    assert float("5e-324") * 1.0 > 0
