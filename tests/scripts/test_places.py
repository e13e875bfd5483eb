"""Where runs lie: a run that is there twice, or in the place of another one, is no further seed of a table."""

import json
import shutil

import pytest

from scripts import collect, localise, report
from scripts.drawing import figures
from scripts.experiments.paper import EXPERIMENTS
from scripts.results.places import by_setting
from utils.errors import RunError


@pytest.fixture
def run(made, tmp_path):
    """A finished run of joint training with seed 0, in the folders that its args.json names."""
    source = made.folder("Joint training", 0)
    return shutil.copytree(source, tmp_path / "first" / source.relative_to(made.out))


def rerooted(run, root):
    """The same folders below another one."""
    return root / run.relative_to(root.parent / "first")


@pytest.mark.parametrize("program", [collect, report])
def test_two_runs_of_one_setting_and_seed_are_refused(run, tmp_path, program):
    other = shutil.copytree(run, rerooted(run, tmp_path / "second"))
    with pytest.raises(RunError, match=f"demo/joint/default/seed0 is there twice, {run} and {other}, .*: leave one"):
        program.main([str(tmp_path)])
    shutil.move(other.parent, other.parent.with_name("again"))  # another tag makes another row
    program.main([str(tmp_path)])


@pytest.mark.parametrize(
    "copy", ["demo/joint/default/seed1", "demo/joint/default/seed00", "demo/inforeg/default/seed0", "seed0"]
)
def test_a_run_in_the_place_of_another_one_is_refused(run, tmp_path, copy):
    folder = shutil.copytree(run, tmp_path / "first" / copy)
    with pytest.raises(RunError, match=f"{folder} lies in the place of another .* it is demo/joint/<tag>/seed0; move"):
        collect.main([str(tmp_path)])


@pytest.mark.parametrize("copy", ["demo/joint/default/seed0.bak", "x"])
def test_a_backup_is_left_out_with_a_warning(run, tmp_path, capsys, copy):
    alone = collect.main([str(tmp_path)])
    assert "left out" not in capsys.readouterr().err
    folder = shutil.copytree(run, tmp_path / copy)
    assert collect.main([str(tmp_path)]) == alone and "1 seed (0)" in alone
    assert f"called seed<number>: {folder}\n" in capsys.readouterr().err


def test_what_the_arguments_do_not_say_is_no_contradiction(run):
    args = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps({"out": "elsewhere", "method": args["method"]}))
    moved = shutil.move(run.parent, run.parent.with_name("other tag"))
    assert by_setting([moved / "seed0"]) == {("demo", "joint", "other tag"): [moved / "seed0"]}


def test_localisation_does_not_count_a_run_twice_either(run):
    copied = shutil.copytree(run, run.with_name("seed1"))
    for other, why in ((run, "is there twice"), (copied, "lies in the place of another run")):
        with pytest.raises(RunError, match=why):
            localise.main(["evaluate", str(run), str(other), "--device", "cpu"])


def test_tables_and_figures_of_an_experiment_do_not_either(run, tmp_path):
    copied = shutil.copytree(run, run.with_name("seed1"))
    out = tmp_path / "first"
    with pytest.raises(RunError, match=f"{copied} lies in the place of another run"):
        collect.main(["--experiment", "table2", "--dataset", "demo", "--out", str(out)])
    with pytest.raises(RunError, match=f"{copied} lies in the place of another run"):
        figures.draw(EXPERIMENTS["figure3"], "demo", [0, 1], out)
