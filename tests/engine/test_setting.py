"""What names a run: tags are names of folders, and one function says in which flags settings differ."""

import json
from pathlib import Path

import pytest
from helpers.runs import SMALL, flags, make_demo

import main as program
from dataset.demo import Demo
from engine.parser import parse
from methods import METHODS
from methods.joint import Joint
from scripts import collect
from utils.runs.setting import LONGEST_NAME, changes, differing, flags_added, folder_name, make_tag


@pytest.mark.parametrize(
    "text, name",
    [
        ("epochs=12_lr=0.1", "epochs=12_lr=0.1"),
        ("weights=a/b/c.pt", "weights=a-b-c.pt"),
        (r"weights=C:\b", "weights=C.-b"),
        ('x=a<b>c|d?e*f"g\nh\0i', "x=a-b-c-d-e-f-g-h-i"),
        ("weights=..", "weights="),
        ("name=été", "name=été"),
    ],
)
def test_a_folder_name_holds_nothing_that_a_file_system_refuses(text, name):
    assert folder_name(text) == name and folder_name(name) == name


@pytest.mark.parametrize("sign", ["a", "é", "語"])
def test_a_name_that_is_too_long_is_cut_and_stays_one_of_its_own(tmp_path, sign):
    one, other = (folder_name("words=" + sign * 300 + end) for end in "12")
    for name in (one, other):
        assert LONGEST_NAME - 3 <= len(name.encode()) <= LONGEST_NAME and name[-17] == "~"
        (tmp_path / name).mkdir()
    assert one != other and one[:-16] == other[:-16] and folder_name(one) == one
    assert len(folder_name("a" * LONGEST_NAME)) == LONGEST_NAME and "~" not in folder_name("a" * LONGEST_NAME)


def test_differing_flags_are_those_that_some_run_has_otherwise():
    runs = {"a": dict(lr=0.1, seed=0, only=1, w="x/seed0/last.pt"), "b": dict(lr=0.2, seed=1, w="x/seed1/last.pt")}
    assert differing(runs) == {"lr": {"a": 0.1, "b": 0.2}, "seed": {"a": 0, "b": 1}}
    runs["b"]["w"] = "y/seed1/last.pt"
    assert differing(runs)["w"] == {"a": "x/seed*/last.pt", "b": "y/seed*/last.pt"}
    assert differing({"a": dict(seed=1, w="seed10"), "b": dict(seed=2, w="seed20")}).keys() == {"seed", "w"}
    assert differing({"a": {"w": ("x", 1)}, "b": {"w": ["x", 1.0]}}) == {}  # as args.json has the first


def test_a_run_goes_on_on_another_machine_but_not_with_another_flag():
    before = vars(parse(["--lr", "0.1"]))
    elsewhere = before | dict(
        device="cpu", workers=7, out="there", data_root="moved", resume=True, cache="ram", tag="x"
    )
    assert changes(before, elsewhere) == changes(json.loads(json.dumps(before)), before) == []
    assert changes(before, before | {"lr": 0.2, "new": 1}) == ["--lr was 0.1, is 0.2", "--new was None, is 1"]
    assert changes(before, before | {"seed": 3}) == ["--seed was 0, is 3"]
    (packed,) = changes(before, before | {"data_root": "x.tar"})
    assert packed.startswith("--data_root was ")


def test_a_tag_names_what_is_not_at_its_default():
    defaults = dict(lr=0.1, words=None, seed=0, method="a", device="cpu")
    assert make_tag(defaults, defaults) == "default"
    chosen = dict(lr=0.2, words=["x:1", "y/2"], seed=5, method="b", device="cuda")
    assert make_tag(chosen, defaults) == "lr=0.2_words=x.1+y-2"


def test_flags_added_are_those_of_groups_too():
    def add_args(parser):
        parser.add_argument("--one", "--uno", required=True)
        parser.add_argument_group("group").add_argument("--two-words", type=int)

    assert flags_added(add_args) == {"--one": "one", "--uno": "one", "--two-words": "two_words"}


class Weighted(Joint):
    """A user's method with flags whose values are paths, one as text and one as a Path."""

    @classmethod
    def add_args(cls, group):
        group.add_argument("--prior")
        group.add_argument("--notes", type=Path)


@pytest.mark.parametrize("deep", [1, 30], ids=["short", "longer than a folder's name"])
def test_a_path_in_a_flag_neither_nests_the_folder_nor_misleads_the_tables(tmp_path, monkeypatch, capsys, deep):
    demo, out = make_demo(tmp_path / "demo"), tmp_path / "results"
    monkeypatch.setitem(METHODS, "weighted", Weighted)
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    path = "/".join(["elsewhere/other"] * deep) + "/w.pt"
    argv = flags(demo, out, "--method", "weighted", "--prior", path, "--notes", "a/b", "--epochs", "1")
    del argv[argv.index("--tag") : argv.index("--tag") + 2]
    program.main(argv)
    program.main([*argv, "--resume"])
    (folder,) = (path.parent for path in out.rglob("args.json"))
    assert folder.parts[-4:-2] == ("demo", "weighted") and folder.parent.parent.parent.parent == out
    assert "_notes=a-b_" in folder.parent.name and len(folder.parent.name.encode()) <= LONGEST_NAME
    args = json.loads((folder / "args.json").read_text())
    assert (args["prior"], args["notes"]) == (path, "a/b")
    capsys.readouterr()
    table = collect.main([str(out)]) or capsys.readouterr().out
    (row,) = [line for line in table.splitlines() if line.startswith("| weighted")]
    label, seeds = (cell.strip() for cell in row.split("|")[1:3])
    assert "notes a-b, prior elsewhere-other" in label and "/" not in label and seeds == "1"


def test_a_given_tag_must_be_the_name_of_a_folder(capsys):
    assert parse(["--tag", "a" * LONGEST_NAME]).tag == "a" * LONGEST_NAME
    for tag in ("a/b", r"a\b", "a" * (LONGEST_NAME + 1), "a:b", "a.", "..", "*"):
        with pytest.raises(SystemExit):
            parse(["--tag", tag])
        assert "is not a folder name: no more than 255 bytes" in capsys.readouterr().err
