"""Short names of settings, in place of the tags of their folders."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from scripts.experiments.ensembles import ENSEMBLE
from scripts.experiments.rows import LABELS

Setting = tuple[str, str, str]  # data set, method, tag
STAR = "*: with --unimodal_loss split, as the paper's starred rows."


def flags_of_tag(tag: str, flags: Collection[str]) -> dict[str, str] | None:
    """{flag: value} of a tag that `make_tag` has written of some of these flags; None for one that a user chose."""
    if tag == "default":
        return {}
    names = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))
    first, *rest = re.split(rf"(?:^|_)({names})=", tag) if names else [tag]
    return None if first else dict(zip(rest[::2], rest[1::2], strict=True))


def shared_flags(said: Sequence[Mapping[str, str] | None]) -> dict[str, str]:
    """What all settings say, so that no label has to; nothing for a single one."""
    if len(said) < 2 or None in said:
        return {}
    return {flag: value for flag, value in said[0].items() if all(other.get(flag) == value for other in said)}


def label_settings(settings: Sequence[Setting], flags: Collection[str]) -> tuple[dict[Setting, str], dict[str, str]]:
    """{setting: its label} of one data set's settings, and the flags that all of them say, which no label repeats."""
    said = {setting: flags_of_tag(setting[2], flags) for setting in settings}
    shared = shared_flags(list(said.values()))
    labels = {
        setting: label(setting, None if own is None else {k: v for k, v in own.items() if k not in shared})
        for setting, own in said.items()
    }
    count = Counter(labels.values())
    return {s: text if count[text] == 1 else f"{s[1]}/{s[2]}" for s, text in labels.items()}, shared


def notes_on(labels: Mapping[Setting, str], shared: Mapping[str, str]) -> list[str]:
    """What a reader of these labels has to know: the flags that none repeats, and what a star means."""
    notes = [f"In every run: {' '.join(f'--{flag} {value}' for flag, value in shared.items())}."] if shared else []
    return notes + ([STAR] if any("*" in text for text in labels.values()) else [])


def label(setting: Setting, flags: dict[str, str] | None) -> str:
    """The method as the paper prints it, with a star for --unimodal_loss split, and the other flags of the setting."""
    _, method, tag = setting
    if flags is None:
        return f"{LABELS.get(method, method)}, {tag}"
    if method == "unimodal" and "modality" in flags:
        name = f"{flags.pop('modality')} alone"
    elif method == ENSEMBLE:
        name = "average of these"
    else:
        name = LABELS.get(method, method)
    if flags.get("unimodal_loss") == "split":
        name += "*"
        del flags["unimodal_loss"]
    return ", ".join([name, *(f"{flag} {value}" for flag, value in flags.items())])
