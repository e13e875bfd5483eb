"""A wrong flag's hint: the right one, or none."""

import pytest

from engine.hints import MEANT, SYNONYMS, suggestion
from engine.parser import make_parser, parse
from methods import METHODS
from utils.runs.setting import options_of

# As users of other codes, or a slip of the hand, write them; None: nothing here is meant.
TYPED = {
    "scheduler": "schedule", "lr_scheduler": "schedule", "lr_decay_step": "lr_step", "learning_rate": "lr",
    "learning-rate": "lr", "batch-size": "batch_size", "bath_size": "batch_size", "bs": "batch_size",
    "num_epochs": "epochs", "epcohs": "epochs", "epoch": "epochs", "num_workers": "workers", "wd": "weight_decay",
    "weight_decy": "weight_decay", "optim": "optimizer", "backbone": "encoder", "arch": "encoder", "model": "encoder",
    "pretrained": "weights", "load_from": "weights", "clip_grad": "clip_norm", "max_grad_norm": "clip_norm",
    "accum_iter": "accumulate", "early_stopping": "patience", "warmup": "lr_warmup", "warmup_epochs": "lr_warmup",
    "amp": "precision", "gpu": "device", "output_dir": "out", "work_dir": "out", "data_dir": "data_root",
    "resume_from": "resume", "seeds": "seed", "fpss": "fps", "fusion_method": "fusion", "val_split": "val_fraction",
    "label_smoothing": None, "dropout": None, "mixup": None, "wandb": None, "momentum_decay": None, "alpha": None,
    "num_classes": None, "print_freq": None, "hidden_dim": None, "steps": None, "min_lr": None, "nesterov": None,
    "modality": "modality_lr", "audio_lr": "modality_lr", "crop_size": None,
    "visual": None, "loss": None, "algorithm": None, "buffer_size": None,
    "test": None, "sched_power": None, "window_size": None,
}  # fmt: skip


@pytest.mark.parametrize("typed", TYPED)
def test_the_hint_is_the_flag_that_is_meant_or_none(typed):
    wanted = TYPED[typed]
    assert suggestion(f"--{typed}", make_parser("CREMAD", "joint")) == (f"--{wanted}" if wanted else None)


def test_other_names_are_of_flags_that_there_are_and_each_of_one():
    flags = {name.removeprefix("--") for name in options_of(make_parser("CREMAD", "inforeg"))}
    words = [word for words in SYNONYMS.values() for word in words.split()]
    assert SYNONYMS.keys() <= flags and not flags & set(words)
    assert len(words) == len(set(words)) == len(MEANT)
    assert suggestion("--backbone", make_parser("MOSI", "joint")) is None  # which has no --encoder


@pytest.mark.parametrize(
    "argv, said",
    [
        ("--method joint --warmup 5", "--method valuation, not of joint; did you mean --lr_warmup?"),
        ("--method joint --beta 1", "--beta is a flag of --method inforeg, not of joint\n"),
        ("--method joint --clip 1", "--clip is a flag of --method agm, not of joint; did you mean --clip_norm?"),
        ("--method joint --scheduler=cosine", "unknown argument --scheduler=cosine; did you mean --schedule?"),
        ("--method joint --dropout 0.1", "unknown argument --dropout\n"),
    ],
)  # fmt: skip
def test_what_the_program_says(capsys, argv, said):
    with pytest.raises(SystemExit):
        parse(argv.split())
    err = capsys.readouterr().err
    assert " error: " in err and err.rstrip("\n").endswith(said.rstrip("\n"))


@pytest.mark.parametrize(
    "argv, said",
    [
        ("--method infreg", "--method: no 'infreg'; did you mean inforeg? There are unimodal, joint,"),
        ("--dataset crema-d", "--dataset: no 'crema-d'; did you mean CREMAD? There are CREMAD,"),
        ("--dataset imagenet", "--dataset: no 'imagenet'; there are CREMAD,"),
    ],
)
def test_a_wrong_name_is_answered_by_the_names_once(capsys, argv, said):
    with pytest.raises(SystemExit):
        parse(argv.split())
    err = capsys.readouterr().err
    assert f"error: argument {said}" in err and err.count("Food101") == ("dataset" in argv)


def test_no_flag_of_a_method_is_suggested_to_another():
    for name in METHODS:
        parser = make_parser("demo", name)
        names = options_of(parser)
        assert all(suggestion(f"--{word}", parser) in (None, *names) for word in (*MEANT, *TYPED))
