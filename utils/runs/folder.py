"""The folder of one run: arguments, metrics, checkpoints. Everything is written aside and renamed, never half."""

import json
import math
import os
import shutil
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from utils.distributed.processes import rank
from utils.errors import DamageError, InUseError, RunError, warn
from utils.files import (
    add_checksum,
    aside,
    digest,
    discard,
    flush,
    make_folder,
    read_checked,
    remove_parts,
    write_atomically,
    write_checked,
)
from utils.lock import Lock, owner
from utils.runs.checkpoint import load_checkpoint
from utils.runs.files import read_json, read_metrics, write_predictions
from utils.runs.setting import changes, plain_args, run_folder


class Record:
    """results/<dataset>/<method>/<tag>/seed<k>/ with

        args.json       the arguments; `provenance`: command, code, machine and data of each process that worked on it
        metrics.jsonl   a line per epoch
        last.pt         model, method, optimizer, schedule, random states and metrics after the last finished epoch;
                        in `begun` the epoch within which it was written, if it was
        previous.pt     the last.pt before, until the run is done
        best.pt         the weights of the epoch that the validation split selects, where there is one
        predictions.npz the class that each test sample has (`target`) and is given, by the rules of result.json
        result.json     last epoch, validation-selected epoch, and oracle (best test epoch, the papers' rule)
        done            written last; holds the seconds per epoch
        checksums.txt   sha256 of all these (utils/files.py)
        figures/, events.*
        not_finite.json the step that stopped the run, if one has, until it is done

    Only the process that holds `lock` writes there.

    Raises:
        InUseError: if another process is at it.
        RunError: if the folder holds a run and --resume was not given, or a run of another setting.
    """

    def __init__(self, args: Namespace):
        self.args = args
        self.writes = rank() == 0  # of several processes the first
        self.saved = time.monotonic()  # when last.pt was written
        self.sound = True  # whether last.pt, where there is one, may become previous.pt
        self.folder = run_folder(args)
        self.lock = Lock(self.folder)
        self.classes: list[str] = []  # by their numbers
        self.rows: list[dict] = []
        self.seconds: list[float] = []  # of each epoch; not in the metrics, which a resumed run repeats bit for bit
        self.predictions: dict[int | str, torch.Tensor] = {}  # of the test samples: (N,) by epoch, and `target`
        if not self.done and (who := owner(self.folder)):
            raise InUseError(self.folder, who)
        if any((self.folder / name).exists() for name in ("args.json", "last.pt", "previous.pt")) and not args.resume:
            state = "a finished run" if self.done else "an unfinished run"
            raise RunError(f"{self.folder} holds {state}: add --resume to go on with it, or choose --tag or --out")
        if (self.folder / "args.json").exists():
            self._check_same_setting(read_json(self.folder / "args.json"), f"{self.folder} holds a run")

    def check_data(self, checksums: Mapping[str, str | None] | None) -> None:
        """Compare the data on disk with those of the run that the folder holds, by `dataset.checksums`.

        Raises:
            RunError: if they are others: a test sample of the one may be a training sample of the other.
        """
        path = self.folder / "args.json"
        before = read_json(path) if path.exists() else {}
        for entry in before.get("provenance", []):
            known = entry.get("data") or {}
            changed = [name for name, found in (checksums or {}).items() if found and known.get(name, found) != found]
            if changed:
                raise RunError(
                    f"{self.folder} holds a run on other data: {', '.join(changed)} of {self.args.data_root} are not "
                    f"those of {before['data_root']}, which it has read; choose --tag, --out or the other --data_root"
                )

    def create(self, provenance: dict) -> None:
        """Make the folder, unless a run to be resumed has made it; call it once the data are known to be good.

        `provenance` (utils/runs/provenance.py) is added to that of the processes which have worked on the run before.
        """
        if not self.writes:
            return
        make_folder(self.folder / "figures")
        remove_parts(self.folder)
        path = self.folder / "args.json"
        if not path.exists():
            self._load_newest()  # a checkpoint may be there without it, and must be this run's
        written = read_json(path) if path.exists() else plain_args(self.args)
        history = [*written.get("provenance", []), provenance]
        write_checked(path, json.dumps(written | {"provenance": history}, indent=2) + "\n")

    def hold(self) -> AbstractContextManager:
        """Keeps other processes out while the run is written. A finished one may lie where nothing can be written."""
        return self.lock if self.writes and not self.done else nullcontext()

    @property
    def done(self) -> bool:
        return (self.folder / "done").exists()

    @property
    def result(self) -> dict:
        return read_json(self.folder / "result.json")

    def append(self, row: dict) -> None:
        """Add an epoch's line. The file is replaced as a whole, so that a reader never sees half a line."""
        self.rows.append(row)
        if self.writes:
            self.lock.check()
            write_checked(self.folder / "metrics.jsonl", self._lines())

    def save(self, name: str, state: dict) -> None:
        """Write a checkpoint; a last.pt that is sound becomes previous.pt."""
        if not self.writes:
            return
        self.lock.check()
        path = self.folder / name
        temporary = aside(path)
        try:
            own = {"args": plain_args(self.args), "classes": self.classes}
            own |= {"seconds": self.seconds, "rows": self._lines()}
            torch.save(state | own, temporary)
            with temporary.open("rb+") as file:
                found = digest(file)
                flush(file)
            add_checksum(path, found)
            if name == "last.pt":
                if self.sound and path.exists():
                    os.replace(path, self.folder / "previous.pt")
                self.sound, self.saved = True, time.monotonic()
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError in torch.save, which does not say so
            free = f"{shutil.disk_usage(self.folder).free / 1e6:.1f} MB free on its disk"
            raise RunError(f"cannot write {path} ({error}; {free}): the previous one is intact") from error
        finally:
            discard(temporary)

    def keep_batch(self, found: dict) -> None:
        """Write not_finite.json: the step that was not finite, and its samples (engine/watch.py).

        By whichever process finds it first: all find the same, and the others end with it.
        """
        write_atomically(self.folder / "not_finite.json", json.dumps(found, indent=2) + "\n")

    def load(self) -> dict | None:
        """The last checkpoint, or the one before it, with a warning, or None if the run has none yet.

        `rows` are the epochs that it knows; metrics.jsonl is written by them.

        Raises:
            RunError: if no checkpoint is sound, or it is another run's.
        """
        state = self._load_newest()
        if state is None:
            return None
        metrics, best = self.folder / "metrics.jsonl", self.folder / "best.pt"
        # A checkpoint of an earlier version has no rows.
        if "rows" in state:
            self.rows = [json.loads(line) for line in state["rows"].splitlines()]
        else:
            self.rows = read_metrics(metrics)[: state["epoch"] + 1]
        if [row["epoch"] for row in self.rows] != list(range(state["epoch"] + 1)):
            raise RunError(f"{metrics} does not hold the epochs of last.pt: start in another --tag")
        self.seconds = state["seconds"]
        self.predictions = state.get("predictions", {})  # earlier versions kept none
        if self.writes:
            if not (metrics.is_file() and metrics.read_bytes().startswith(self._lines().encode())):
                warn(f"{metrics} is damaged (the checkpoint has other rows): written again from the checkpoint")
            write_checked(metrics, self._lines())
            if best.exists() and (reason := damage_of(best)):
                warn(f"{best} is damaged ({reason}): only a better epoch writes it again")
        return state

    def _load_newest(self) -> dict | None:
        last, previous = self.folder / "last.pt", self.folder / "previous.pt"
        try:
            if previous.exists() and not last.exists():  # killed while the one took the other's place
                raise DamageError(last, "it is missing", "")
            state = load_checkpoint(last) if last.exists() else None
        except DamageError as damaged:
            if not previous.exists():
                raise
            try:
                state = load_checkpoint(previous)
            except DamageError as also:
                if also.path != previous:  # checksums.txt is damaged, both may be sound
                    raise
                both = f"{damaged.reason}; previous.pt: {also.reason}"
                raise DamageError(last, both, "delete both to start the run anew") from None
            self.sound = False
            if self.writes:
                warn(f"{last} is damaged ({damaged.reason}): going on with previous.pt, {state['epoch'] + 1} epochs")
        if state is not None:
            self._check_same_setting(state["args"], f"{self.folder} holds the checkpoint of a run")
        return state

    def finish(self, result: dict) -> None:
        if not self.writes:
            return
        write_checked(self.folder / "result.json", json.dumps(result, indent=2) + "\n")
        epochs = {"target": "target"} | {rule: figures["epoch"] for rule, figures in result.items()}
        kept = {name: self.predictions[epoch] for name, epoch in epochs.items() if epoch in self.predictions}
        write_predictions(self.folder, kept)
        for name in ("previous.pt", "not_finite.json"):
            (self.folder / name).unlink(missing_ok=True)
        timing = {"seconds": sum(self.seconds), "median_seconds_per_epoch": float(np.median(self.seconds))}
        write_checked(self.folder / "done", json.dumps(timing) + "\n")

    def _lines(self) -> str:
        return "".join(json.dumps(_finite(row)) + "\n" for row in self.rows)

    def _check_same_setting(self, before: Mapping, what: str) -> None:
        changed = changes(before, vars(self.args))
        if changed:
            raise RunError(f"{what} of another setting ({'; '.join(changed)}): choose --tag")


def damage_of(path: Path) -> str | None:
    """Why a file is not sound; None if it is, or no checksum says so."""
    try:
        read_checked(path)
    except DamageError as error:
        return error.reason
    return None


def plain(row: dict) -> dict:
    """A row as metrics.jsonl has it: NumPy's numbers become Python's, which a checkpoint may hold."""
    return json.loads(json.dumps(_finite(row)))


def _finite(value):
    """JSON has no NaN and no infinity; they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
