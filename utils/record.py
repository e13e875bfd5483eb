"""The folder of one run: arguments, metrics, checkpoints. Everything is written aside and renamed, never half."""

import io
import json
import math
import os
import random
import shutil
import time
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from dataset.shards import packed
from utils.args import MACHINE_FLAGS
from utils.distributed import rank
from utils.errors import DamageError, InUseError, RunError, warn
from utils.files import (
    add_checksum,
    aside,
    check,
    check_is_file,
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

        `provenance` (utils/provenance.py) is added to that of the processes which have worked on the run before.
        """
        if not self.writes:
            return
        make_folder(self.folder / "figures")
        remove_parts(self.folder)
        path = self.folder / "args.json"
        if not path.exists():
            self._load_newest()  # a checkpoint may be there without it, and must be this run's
        written = read_json(path) if path.exists() else vars(self.args)
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
            own = {"args": vars(self.args), "seconds": self.seconds, "rows": self._lines()}
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
        """Write not_finite.json: the step that was not finite, and its samples (utils/watch.py).

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
        now = json.loads(json.dumps(vars(self.args)))
        changed = [
            f"--{name} was {before.get(name)}, is {now[name]}"
            for name in now
            if (name == "seed" or name not in MACHINE_FLAGS) and before.get(name) != now[name]
        ]
        if packed(before.get("data_root")) != packed(now["data_root"]):  # the order of training is another
            changed.append(f"--data_root was {before.get('data_root')}, is {now['data_root']}")
        if changed:
            raise RunError(f"{what} of another setting ({'; '.join(changed)}): choose --tag")


def run_folder(args: Namespace) -> Path:
    return Path(args.out) / args.dataset / args.method / args.tag / f"seed{args.seed}"


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint without executing anything in it, onto the CPU.

    Raises:
        DamageError: if it is not what was written, by checksums.txt, or where there is none, by the CRCs of the file.
        RunError: if it is missing, or not a checkpoint of this repository.
    """
    if not path.exists():
        raise RunError(f"{path} does not exist")
    check_is_file(path, "remove it to start the run anew")
    with path.open("rb") as file:
        known = check(path, digest(file))
        try:
            if not known and (part := zipfile.ZipFile(file).testzip()):
                raise zipfile.BadZipFile(f"{part} has another CRC")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever the broken archive makes it raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DamageError(path, f"not a checkpoint: {reason}", "delete it to start the run anew") from None
    if not isinstance(state, dict) or not {"model", "args", "epoch"} <= state.keys():
        raise RunError(f"{path} is not a checkpoint of this repository")
    return state


def load_model(model: torch.nn.Module, state: dict, path: Path) -> None:
    """Put a checkpoint's weights into `model`.

    Raises:
        RunError: if they are those of another model; names the first difference.
    """
    wanted, held = model.state_dict(), state["model"]
    odd = [name for name in [*wanted, *held] if name not in wanted or name not in held]
    odd += [name for name in wanted if name in held and wanted[name].shape != held[name].shape]
    if odd:
        raise RunError(
            f"{path} is a checkpoint of another model: {odd[0]} does not match; use the flags of its args.json"
        )
    model.load_state_dict(held)


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        rows = [json.loads(line) for line in read_checked(path).splitlines()]
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): start in another --tag") from None
    if not all(isinstance(row, dict) and "epoch" in row for row in rows):
        raise RunError(f"{path} is damaged (a line is not an epoch's record): start in another --tag")
    return rows


def read_json(path: Path) -> dict:
    """Raises RunError if the file is missing or damaged."""
    try:
        found = json.loads(read_checked(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): choose another --tag") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged (not a JSON object): choose another --tag")
    return found


def write_predictions(folder: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write predictions.npz: (N,) class numbers of the test samples in their order, `target` and those by each rule."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: np.asarray(values, np.int32) for name, values in arrays.items()})
    write_checked(folder / "predictions.npz", buffer.getvalue())


def read_predictions(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of predictions.npz; {} where a run of an earlier version has none.

    Raises:
        RunError: if the file is damaged.
    """
    path = folder / "predictions.npz"
    if not path.exists():
        return {}
    content = read_checked(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # NumPy, zipfile and zlib each raise their own
        raise RunError(f"{path} cannot be read ({error}): run it again in another --tag") from None


def seed_everything(seed: int) -> None:
    """Seed every global generator. The data order and the augmentation do not use them (dataset/base.py)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states() -> dict:
    """Every global generator, in plain values that load without executing anything."""
    name, keys, *position = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, keys.tolist(), *position],
        "python": [version, list(internal), gauss],
    }


def restore_random_states(states: dict) -> None:
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    name, keys, *position = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *position))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


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
