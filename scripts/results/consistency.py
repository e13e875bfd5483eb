"""Whether runs may stand in one table: the same data, the same code, the same recipe beside what makes the row."""

import argparse
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from dataset import DATASETS
from engine.parser import window_defaults
from methods import method_of
from utils.errors import list_names
from utils.runs.setting import LIST, differing, flags_added, setting

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Origin:
    """A run as its args.json tells: its name in messages, the row that it stands in, the flags that make the row."""

    name: str
    row: str
    args: Mapping
    chosen: Collection[str] = ()

    def over_processes(self, read) -> str:
        """What `read` finds in the entries of the processes that worked on the run, where it differs one by one."""
        values = [read(entry) for entry in self.args.get("provenance", [])]
        return ", then ".join(dict.fromkeys(value or UNKNOWN for value in values)) or UNKNOWN


def differences(origins: list[Origin]) -> list[str]:
    """A sentence for each thing in which the runs differ but should not, or that is not recorded; [] if all is well."""
    return [*data(origins), *code(origins), *recipe(origins)]


def data(origins: list[Origin]) -> Iterable[str]:
    """Sentences about data of other checksums."""
    entries = [entry.get("data") or {} for origin in origins for entry in origin.args.get("provenance", [])]
    files = dict.fromkeys(file for entry in entries for file in entry)
    if not files:
        yield from told("checksums of the data", {origin.name: UNKNOWN for origin in origins})
    for file in files:
        sums = {o.name: o.over_processes(lambda entry, file=file: (entry.get("data") or {}).get(file)) for o in origins}
        if not file.startswith(LIST):
            yield from told(f"data, {file}", sums)
            continue
        for seed in dict.fromkeys(origin.args["seed"] for origin in origins):  # each may have a list of its own
            having = {o.name: sums[o.name] for o in origins if o.args["seed"] == seed and sums[o.name] != UNKNOWN}
            yield from told(f"data, {file}", having)


def code(origins: list[Origin]) -> Iterable[str]:
    """Sentences about other commits, changes or libraries."""

    def version(entry: Mapping) -> str | None:
        changed = f" with changes {entry['changes'][:8]}" if entry.get("dirty") else ""
        return entry["commit"][:10] + changed if entry.get("commit") else None

    yield from told("code, commit", {origin.name: origin.over_processes(version) for origin in origins})
    entries = [entry for origin in origins for entry in origin.args.get("provenance", [])]
    for library in dict.fromkeys(library for entry in entries for library in entry["versions"]):
        versions = {o.name: o.over_processes(lambda entry, lib=library: entry["versions"].get(lib)) for o in origins}
        yield from told(f"code, {library}", versions)


def recipe(origins: list[Origin]) -> Iterable[str]:
    """Seeds of a row share every flag; rows share those that neither make the row nor follow from its method."""
    by_row: dict[str, list[Origin]] = defaultdict(list)
    for origin in origins:
        by_row[origin.row].append(origin)
    odd = {"seed"}
    for seeds in by_row.values():
        for flag, values in differing({origin.name: flags_of(origin) for origin in seeds}).items():
            if flag != "seed":
                odd.add(flag)
                yield from told(f"recipe, --{flag}", values)
    shared = {}
    for origin in origins:
        own = {*origin.chosen, *flags_of_method(origin.args)}
        flags = flags_of(origin) | dict.fromkeys(flags_of_window(origin.args), "the window's")
        shared[origin.name] = {flag: value for flag, value in flags.items() if flag not in own}
    for flag, values in differing(shared).items():
        if flag not in odd:
            yield from told(f"recipe, --{flag}", values)


def flags_of(origin: Origin) -> dict:
    """The flags of a run's setting, without its data set and method."""
    return {flag: value for flag, value in setting(origin.args).items() if flag not in ("dataset", "method")}


def flags_of_method(args: Mapping) -> set[str]:
    """The flags that only the method has, whose default it sets, or that are published for it on this data set."""
    method = method_of(args.get("method"))
    if method is None:  # an ensemble
        return set()
    published = DATASETS[args["dataset"]].method_defaults.get(args["method"], {})
    return {*flags_added(method.add_args).values(), *method.defaults(argparse.Namespace(**args)), *published}


def flags_of_window(args: Mapping) -> list[str]:
    """The flags whose values are the constants of the run's --window."""
    constants = window_defaults(args["window"]) if "window" in args else {}
    return [flag for flag, value in constants.items() if args.get(flag) == value]


def told(what: str, values: Mapping[str, object]) -> list[str]:
    """[a sentence about who has which value], most frequent first; [] if all have the same and know it."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, value in values.items():
        names[str(value)].append(name)
    if len(names) < 2 and UNKNOWN not in names:
        return []
    groups = sorted(names.items(), key=lambda item: -len(item[1]))
    return [f"{what}: " + "; ".join(f"{shorten(value)} in {list_names(who)}" for value, who in groups)]


def shorten(value: str) -> str:
    """The beginning of a checksum; other values as they are."""
    return f"{value[:8]}..." if len(value) == 64 else value
