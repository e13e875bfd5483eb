"""What names a run: its setting, the flags in which settings differ, and the folder.

A setting is every flag that says what is trained, and how. Two runs of one setting and seed give the same numbers.
"""

import argparse
import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

from utils.files import packed

# Flags that may change between a run and its continuation: they name no setting.
MACHINE_FLAGS = (
    "data_root", "cache", "cache_root", "device", "workers", "checkpoint_minutes", "out", "tag", "resume",
)  # fmt: skip
PATH_FLAGS = ("dataset", "method", "seed")  # folders of a run's path are named after them
LIST = "--train_list "  # before the name of the list among the checksums of a run's data
LONGEST_NAME = 255  # bytes; the file systems in use allow no longer name of a folder


def plain_args(args: Namespace) -> dict:
    """The arguments as args.json and checkpoints hold them: lists for tuples, text for paths."""
    return json.loads(json.dumps(vars(args), default=str))


def setting(args: Mapping) -> dict:
    """The flags of `args` (a run's arguments, by flag) that name its setting, seed included.

    Weights to start from, the --train_list and the runs of --solo and --start_from (by their tags) are named
    without their folders: their checksums say which they are (utils/runs/folder.py).
    """
    flags = {flag: value for flag, value in args.items() if flag not in (*MACHINE_FLAGS, "provenance")}
    if files := flags.get("weights"):
        flags["weights"] = sorted(f"{name}={Path(path).name}" for name, path in (word.split("=", 1) for word in files))
    if path := flags.get("train_list"):
        flags["train_list"] = Path(path).name
    for flag in ("solo", "start_from"):
        if path := flags.get(flag):
            flags[flag] = Path(path).parent.name
    return flags


def differing(settings: Mapping[str, Mapping]) -> dict[str, dict[str, object]]:
    """{flag: {run: value}} for each flag whose value is not the same in all runs that have it.

    `settings` holds the flags by run. A path that names the run's own seed is the same in every seed: `seed0` of one
    run and `seed1` of another are both given as `seed*`.
    """
    different = {}
    for flag in dict.fromkeys(flag for flags in settings.values() for flag in flags):
        values = {run: json.dumps(flags[flag], default=str) for run, flags in settings.items() if flag in flags}
        if len(set(values.values())) > 1:
            values = {run: re.sub(rf"\bseed{settings[run].get('seed')}\b", "seed*", v) for run, v in values.items()}
        plain = {run: json.loads(value) for run, value in values.items()}
        if any(value != next(iter(plain.values())) for value in plain.values()):
            different[flag] = plain
    return different


def changes(before: Mapping, now: Mapping) -> list[str]:
    """What keeps a run that began with `before` from going on with `now`, a sentence a flag; [] if nothing does.

    More epochs do not, where the schedule of the learning rate does not follow from their number.
    """
    new = setting(now)
    old = setting(before)
    old = {flag: old.get(flag) for flag in new}
    changed = [f"--{flag} was {old[flag]}, is {new[flag]}" for flag in differing({"old": old, "new": new})]
    if prolongs(before, now):
        more = changed.index(f"--epochs was {old['epochs']}, is {new['epochs']}")
        if new.get("schedule") == "cosine":
            changed[more] += ", over all of which --schedule cosine falls"
        else:
            del changed[more]
    if packed(before.get("data_root")) != packed(now["data_root"]):  # shards are read in another order
        changed.append(f"--data_root was {before.get('data_root')}, is {now['data_root']}")
    return changed


def prolongs(before: Mapping, now: Mapping) -> bool:
    """Whether `now` asks for more epochs than a run that began with `before`."""
    return "epochs" in before and before["epochs"] < now["epochs"]


def make_tag(args: Mapping, defaults: Mapping) -> str:
    """`default`, or the flags of the setting that differ from their defaults, as in `epochs=12_fusion=sum`."""
    flags = setting(args)
    changed = differing({"run": flags, "default": setting(defaults)})
    words = [f"{flag}={_word(flags[flag])}" for flag in sorted(changed) if flag not in PATH_FLAGS]
    return folder_name("_".join(words) or "default")


def _word(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def folder_name(text: str) -> str:
    """`text` as the name of one folder, on every file system.

    Separators and other signs that a file system refuses become `-`, colons become `.`. A name longer than 255 bytes is
    cut, and ends with `~` and the first 16 digits of the whole name's sha256.
    """
    name = "".join("-" if sign in '/\\<>"|?*' or not sign.isprintable() else sign for sign in text.replace(":", "."))
    name = name.rstrip(". ")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    mark = "~" + hashlib.sha256(name.encode()).hexdigest()[:16]
    return name.encode()[: LONGEST_NAME - len(mark)].decode(errors="ignore") + mark


def run_folder(args: Namespace) -> Path:
    """Where the run of these arguments is written."""
    return Path(args.out) / args.dataset / args.method / args.tag / f"seed{args.seed}"


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """{"--flag": its action} of all flags of a parser; argparse itself gives no list of them."""
    return {option: action for action in parser._actions for option in action.option_strings}


def flags_added(add_args: Callable) -> dict[str, str]:
    """{"--flag": its name in the arguments} of what `add_args`, of a method or a data set, adds to a parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_args(parser)
    return {option: action.dest for option, action in options_of(parser).items()}
