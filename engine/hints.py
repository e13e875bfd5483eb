"""What is said about a flag that does not exist: whose it is, or which one was meant."""

import argparse
import difflib
from collections.abc import Callable, Collection

from dataset import DATASETS
from methods import METHODS, PRETRAINING
from utils.runs.setting import flags_added, options_of

# What the flags here are called elsewhere (timm, DomainBed, mammoth, MMEngine, public codes of this field).
SYNONYMS = {
    "accumulate": "accum_iter accum_steps accumulation_steps accumulative_counts gradient_accumulation "
    "gradient_accumulation_steps grad_accum grad_accum_steps iters_to_accumulate",
    "batch_size": "bs batch batchsize train_batch_size",
    "class_weights": "balanced class_weight reweight weighted_loss",
    "clip_norm": "clip clip_grad clip_grad_norm clip_gradient grad_clip grad_norm gradient_clip gradient_clip_val "
    "max_grad_norm max_norm",
    "data_root": "data data_dir data_path dataset_path root root_path",
    "device": "cpu cuda gpu gpus gpu_id gpu_ids",
    "encoder": "arch architecture backbone encoders model net network",
    "encoder_lr_factor": "backbone_lr encoder_lr lr_mult",
    "epochs": "epoch max_epoch max_epochs n_epoch n_epochs num_epoch num_epochs total_epoch train_epochs",
    "freeze": "frozen freeze_backbone freeze_encoder frozen_stages",
    "fusion": "fusion_method fusion_type",
    "lr": "base_lr learning_rate learningrate",
    "lr_gamma": "decay_rate gamma lr_decay lr_decay_rate lr_decay_ratio",
    "lr_step": "decay_epochs decay_step lr_decay_step lr_steps milestones step_size",
    "lr_warmup": "warm_up warmup warmup_epoch warmup_epochs warmup_steps",
    "modality_lr": "audio_lr lr_audio lr_text lr_visual lrs text_lr visual_lr",
    "optimizer": "opt optim optimiser",
    "out": "ckpt_path exp_dir log_dir logdir output output_dir outdir save save_dir save_path work_dir",
    "patience": "early_stop early_stopping earlystopping",
    "precision": "amp bf16 dtype fp16 half mixed_precision",
    "resume": "auto_resume continue resume_from",
    "schedule": "lr_policy lr_schedule lr_scheduler sched scheduler",
    "seed": "random_seed",
    "tag": "exp_name experiment name run_name",
    "val_fraction": "val_ratio val_split valid_fraction validation_split",
    "weight_decay": "l2 wd",
    "weights": "ckpt init init_checkpoint load load_from pretrain pretrained weight",
    "workers": "n_workers num_workers nw",
}
MEANT = {word: flag for flag, words in SYNONYMS.items() for word in words.split()}


def explain(unknown: list[str], parser: argparse.ArgumentParser, dataset: str, method: str) -> str:
    """One sentence about the first unknown word: whose flag it is, or which one was meant."""
    flag = unknown[0].split("=")[0]
    meant = suggestion(flag, parser)
    hint = f"; did you mean {meant}?" if meant else ""
    for kind, table, chosen in (("method", METHODS | PRETRAINING, method), ("dataset", DATASETS, dataset)):
        owners = [name for name, other in table.items() if flag in flags_added(other.add_args)]
        if owners:
            known = hint if flag.removeprefix("--") in MEANT else ""
            return f"{flag} is a flag of --{kind} {owners[0]}, not of {chosen}{known}"
    refused = {
        "--modulate_during": f"{method} modulates nothing",
        "--unimodal_loss": f"{method} defines its own losses",
        "--class_weights": f"{method} defines its own losses",
    }
    if flag in refused:
        return f"{flag} does not apply: {refused[flag]}"
    return f"unknown argument {unknown[0]}{hint}"


def suggestion(flag: str, parser: argparse.ArgumentParser) -> str | None:
    """The flag of `parser` that another name stands for, or that differs from it by a slip of the hand; or None."""
    # Without the dashes, which every flag has, and which would make any two look alike.
    word = flag.lstrip("-").replace("-", "_")
    names = [option.removeprefix("--") for option in options_of(parser) if option.startswith("--")]
    if word in names:
        return f"--{word}"
    if MEANT.get(word) in names:
        return f"--{MEANT[word]}"
    close = closest(word, names, cutoff=0.8)
    return f"--{close}" if close else None


def closest(word: str, names: Collection[str], cutoff: float) -> str | None:
    """The name that `word` is, but for capitals and slips of the hand; None if all names differ by more."""
    lowered = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=cutoff)
    return lowered[close[0]] if close else None


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """An argument type: one of these names."""

    def known(word: str) -> str:
        if word in names:
            return word
        close = closest(word, names, cutoff=0.6)
        meant = f"did you mean {close}? There are" if close else "there are"
        raise argparse.ArgumentTypeError(f"no {word!r}; {meant} {', '.join(names)}")

    return known
