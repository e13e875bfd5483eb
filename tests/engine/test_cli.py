"""The command line: defaults and their sources, the user's flags, and what is said about wrong ones."""

import re
import subprocess
import sys

import pytest
import torch
from helpers.places import ROOT
from helpers.tiny import TinyData

from dataset.demo import Demo
from dataset.loader import make_loader
from engine.parser import parse
from main import main
from methods import METHODS
from methods.joint import Joint
from utils.errors import RunError
from utils.runs.generators import seed_everything

INFOREG = ["--dataset", "CREMAD", "--method", "inforeg"]


def refusal(capsys, *argv):
    """What stands on stderr when parse() refuses `argv`."""
    with pytest.raises(SystemExit) as stopped:
        parse(list(argv))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def help_text(capsys, *argv):
    with pytest.raises(SystemExit) as stopped:
        parse([*argv, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_defaults_are_those_of_the_paper_and_its_public_code():
    args = vars(parse(INFOREG))
    wanted = dict(
        optimizer="sgd", lr=0.002, momentum=0.9, weight_decay=1e-4, lr_step=30, lr_gamma=0.1, batch_size=64, epochs=50,
        frames=3, fps=3, image_size=224, fusion="concat", precision="fp32", val_fraction=0.0,
        variant="paper", regulation="proximal", beta=0.9, threshold=0.04, window_smoothing=1, start_epoch=2,
        modulate_during="prime", unimodal_loss="none", tag="default", seed=0,
    )  # fmt: skip
    assert {name: args[name] for name in wanted} == wanted


def test_without_flags_it_is_inforeg_on_cremad():
    assert parse([]) == parse(INFOREG)


def test_variant_official_changes_what_follows_from_it():
    args = parse([*INFOREG, "--variant", "official"])
    changed = dict(beta=1.0, threshold=0.05, window_smoothing=10, start_epoch=0, unimodal_loss="split")
    changed["window"] = "official"
    assert {name: getattr(args, name) for name in changed} == changed
    assert args.tag == "variant=official"
    # Nothing else follows from it.
    rest = {name: value for name, value in vars(args).items() if name not in {*changed, "variant", "tag"}}
    assert rest.items() <= vars(parse(INFOREG)).items()


@pytest.mark.parametrize(
    "flag, value", [("beta", 0.7), ("threshold", 0.01), ("window_smoothing", 3), ("start_epoch", 4)]
)
def test_the_users_flags_win_over_the_variant(flag, value):
    args = parse([*INFOREG, "--variant", "official", f"--{flag}", str(value), "--unimodal_loss", "none"])
    assert getattr(args, flag) == value
    assert args.unimodal_loss == "none"
    assert args.tag == f"{'_'.join(sorted([f'{flag}={value}', 'unimodal_loss=none', 'variant=official']))}"


def test_a_flag_equal_to_the_papers_default_wins_over_the_variant_too():
    args = parse([*INFOREG, "--variant", "official", "--beta", "0.9", "--threshold", "0.04"])
    assert (args.beta, args.threshold) == (0.9, 0.04)


def test_what_is_published_for_a_data_set_wins_over_the_methods_default_and_the_user_over_both(monkeypatch):
    monkeypatch.setitem(METHODS, "joint", type("Slow", (Joint,), {"defaults": classmethod(lambda *_: {"lr": 0.5})}))
    argv = ["--dataset", "demo", "--method", "joint"]
    assert parse(argv).lr == 0.5
    monkeypatch.setattr(Demo, "method_defaults", {"joint": {"lr": 0.25}})
    assert (parse(argv).lr, parse(argv).tag) == (0.25, "default")
    assert parse([*argv, "--lr", "0.125"]).lr == 0.125


def test_joint_has_no_flag_of_inforeg():
    args = vars(parse(["--method", "joint"]))
    assert not {"beta", "variant", "regulation", "modulate_during"} & set(args)


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--bath_size", "4"], ["--bath_size", "did you mean --batch_size?"]),
        (["--epoch", "4"], ["--epoch", "did you mean --epochs?"]),  # an abbreviation is no flag
        (["--batch", "4"], ["--batch"]),
        (["--meth", "joint"], ["--meth", "did you mean --method?"]),
        (["stray"], ["stray"]),
        (["--scheduler", "step"], ["unknown argument --scheduler; did you mean --schedule?\n"]),
        (["--epcohs", "4"], ["did you mean --epochs?"]),
        (["--method", "joint", "--beta", "0.5"], ["--beta is a flag of --method inforeg, not of joint"]),
        (["--method", "joint", "--beta=0.5"], ["--beta is a flag of --method inforeg, not of joint"]),
        (["--modality", "audio"], ["--modality is a flag of --method unimodal, not of inforeg"]),
        (["--method", "joint", "--modulate_during", "all"], ["--modulate_during does not apply", "joint"]),
        (["--method", "unimodal", "--unimodal_loss", "split"], ["--unimodal_loss does not apply", "unimodal"]),
        (["--method", "infreg"], ["infreg", "inforeg"]),
        (["--dataset", "CREMA"], ["CREMA", "CREMAD"]),
        (["--fusion", "cat"], ["cat", "concat"]),
        (["--tag", "../elsewhere"], ["../elsewhere"]),
        (["--tag", ""], ["--tag"]),
        (["--tag", "a\udcff"], [r"--tag 'a\udcff' is not a folder name"]),  # a byte that is no UTF-8
        (["--tag", "a\nb"], [r"--tag 'a\nb' is not a folder name"]),
        (["--out", "a\udcff"], [r"--out 'a\udcff' has characters that cannot be printed"]),
    ],
)
def test_a_wrong_flag_is_refused_and_explained(capsys, argv, said):
    err = refusal(capsys, *argv)
    assert all(words in err for words in said), err


@pytest.mark.parametrize(
    "argv",
    [
        "--epochs 0", "--epochs 1.5", "--batch_size -4", "--lr -0.1", "--lr 0", "--lr nan", "--momentum 1",
        "--weight_decay -1", "--lr_step 0", "--lr_gamma 0", "--val_fraction 1", "--val_fraction -0.1", "--workers -1",
        "--window_smoothing 0", "--frames 0", "--fps x", "--image_size 0", "--seed x", "--threshold nan", "--beta nan",
        f"--seed {2**63}", f"--seed={-(2**63) - 1}",
        "--dataset demo --demo_detune -1", "--dataset demo --demo_clips 0",
    ],
)  # fmt: skip
def test_a_bad_number_is_refused_by_the_name_of_its_flag(capsys, argv):
    words = argv.replace("=", " ").split()
    assert words[-2] in refusal(capsys, *argv.split())


@pytest.mark.parametrize("seed", [-(2**63), 2**63 - 1])
def test_a_seed_that_is_taken_is_one_for_every_generator(seed):
    assert parse([f"--seed={seed}"]).seed == seed
    seed_everything(seed)
    make_loader(TinyData(), batch_size=1, workers=0, seed=seed)


def test_help_has_groups_and_the_sources_of_the_defaults(capsys):
    text = help_text(capsys, *INFOREG)
    for group in (
        "data set CREMAD (defaults: public code):",
        "training (defaults: public code):",
        "model:",
        "prime learning window (recorded for every method):",
        "method inforeg:",
        "run:",
        "Defaults are those of --dataset CREMAD --method inforeg",
    ):
        assert group in text
    assert "(defaults: ours)" in help_text(capsys, "--dataset", "demo")


@pytest.mark.parametrize("chosen", [[], ["--variant", "official"], ["--method", "joint"], ["--dataset", "GRID"]])
def test_help_shows_the_defaults_that_a_run_takes(capsys, chosen):
    entries = re.findall(r"^  --(\w+)(.*?)(?=^  --|^$)", help_text(capsys, *chosen), re.DOTALL | re.MULTILINE)
    shown = {name: re.findall(r"\(default: ([^)]*)\)", text) for name, text in entries}
    taken = {name: value for name, value in vars(parse(chosen)).items() if f"--{name}" not in chosen}
    taken |= {"tag": None, "resume": None, "sync_bn": None, "compile": None}  # composed of the others; off
    wanted = {name: [] if value is None else [str(value)] for name, value in taken.items()}
    assert {name: shown[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    "argv, tag",
    [
        ("", "default"),
        ("--lr 2e-3 --fusion concat --variant paper", "default"),
        ("--workers 0 --device cpu --seed 3 --out x --data_root y --resume", "default"),
        ("--fusion sum --epochs 12", "epochs=12_fusion=sum"),
        ("--method unimodal --modality audio", "modality=audio"),
        ("--dataset demo --demo_clips 64", "demo_clips=64"),
        ("--epochs 12 --tag mine", "mine"),
    ],
)
def test_tag_names_the_flags_that_differ(argv, tag):
    assert parse(argv.split()).tag == tag


@pytest.mark.parametrize(
    "argv, said",
    [
        ("--method unimodal", ["--modality", "audio, visual"]),
        ("--method unimodal --modality smell", ["--modality", "audio, visual", "smell"]),
        ("--method unimodal --modality audio --fusion film", ["unimodal", "--fusion"]),
        ("--method unimodal --modality audio --fusion gated", ["unimodal", "--fusion"]),
        ("--variant official --regulation lr", ["official", "proximal"]),
        ("--variant official --regulation gradient", ["official", "proximal"]),
        ("--method joint --device cuda", ["--device cuda", "--device cpu"]),
        ("--method joint --data_root nowhere", ["nowhere", "data/README.md", "--data_root"]),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError) as refused:
        main([*argv.split(), "--out", str(tmp_path / "results")])
    message = str(refused.value)
    assert all(words in message for words in said) and "\n" not in message, message
    assert not list(tmp_path.iterdir())


def test_the_program_prints_one_error_line_and_fails(tmp_path):
    command = [sys.executable, ROOT / "main.py", "--data_root", tmp_path / "nowhere", "--out", tmp_path / "results"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_help_loads_nothing_that_only_training_needs():
    """A bound on what is loaded, since a clock would tell of the machine."""
    program = (
        "import sys, main\ntry:\n    main.main(['--help'])\nfinally:\n    print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=300)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert "--fusion" in done.stdout and "torch" in loaded
    heavy = {"av", "cv2", "librosa", "matplotlib", "numba", "scipy", "sklearn", "tensorboard", "torchvision"}
    assert not heavy & loaded and "torch._dynamo" not in done.stderr.split()
