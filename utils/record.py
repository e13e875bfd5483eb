"""The folder of one run: arguments, metrics, checkpoints. Everything is written aside and renamed, never half."""

import io
import json
import math
import os
import random
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from utils.args import MACHINE_FLAGS
from utils.distributed import rank
from utils.errors import InUseError, RunError
from utils.lock import Lock, owner


class Record:
    """results/<dataset>/<method>/<tag>/seed<k>/ with

        args.json       the arguments; `provenance`: command, code, machine and data of each process that worked on it
        metrics.jsonl   a line per epoch
        last.pt         model, method, optimizer, schedule and random states after the last finished epoch
        best.pt         the weights of the epoch that the validation split selects, where there is one
        predictions.npz the class that each test sample has (`target`) and is given, by the rules of result.json
        result.json     last epoch, validation-selected epoch, and oracle (best test epoch, the papers' rule)
        done            written last; holds the seconds per epoch
        figures/, events.*

    Only the process that holds `lock` writes there.

    Raises:
        InUseError: if another process is at it.
        RunError: if the folder holds a run and --resume was not given, or a run of another setting.
    """

    def __init__(self, args: Namespace):
        self.args = args
        self.writes = rank() == 0  # of several processes the first
        self.folder = run_folder(args)
        self.lock = Lock(self.folder)
        self.rows: list[dict] = []
        self.seconds: list[float] = []  # of each epoch; not in the metrics, which a resumed run repeats bit for bit
        self.predictions: dict[int | str, torch.Tensor] = {}  # of the test samples: (N,) by epoch, and `target`
        if not self.done and (who := owner(self.folder)):
            raise InUseError(self.folder, who)
        if (self.folder / "args.json").exists() and not args.resume:
            state = "a finished run" if self.done else "an unfinished run"
            raise RunError(f"{self.folder} holds {state}: add --resume to go on with it, or choose --tag or --out")
        if (self.folder / "args.json").exists():
            self._check_same_setting()

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
        path = self.folder / "args.json"
        written = read_json(path) if path.exists() else vars(self.args)
        history = [*written.get("provenance", []), provenance]
        write_atomically(path, json.dumps(written | {"provenance": history}, indent=2) + "\n")

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
            self._write_rows()

    def save(self, name: str, state: dict) -> None:
        if not self.writes:
            return
        temporary = self.folder / f".{name}.{os.getpid()}"
        try:
            torch.save(state | {"args": vars(self.args), "seconds": self.seconds}, temporary)
            os.replace(temporary, self.folder / name)
        except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError in torch.save
            temporary.unlink(missing_ok=True)
            raise RunError(f"cannot write {self.folder / name} ({error}): the previous one is intact") from error

    def load(self) -> dict | None:
        """The last checkpoint, or None if the run has none yet; `rows` is cut to the epochs that it knows."""
        path = self.folder / "last.pt"
        if not path.exists():
            return None
        state = load_checkpoint(path)
        self.rows = read_metrics(self.folder / "metrics.jsonl")[: state["epoch"] + 1]
        if [row["epoch"] for row in self.rows] != list(range(state["epoch"] + 1)):
            raise RunError(
                f"{self.folder / 'metrics.jsonl'} does not hold the epochs of last.pt: start in another --tag"
            )
        if self.writes:
            self._write_rows()
        self.seconds = state["seconds"]
        self.predictions = state.get("predictions", {})  # earlier versions kept none
        return state

    def finish(self, result: dict) -> None:
        if not self.writes:
            return
        write_atomically(self.folder / "result.json", json.dumps(result, indent=2) + "\n")
        epochs = {"target": "target"} | {rule: figures["epoch"] for rule, figures in result.items()}
        kept = {name: self.predictions[epoch] for name, epoch in epochs.items() if epoch in self.predictions}
        write_predictions(self.folder, kept)
        timing = {"seconds": sum(self.seconds), "median_seconds_per_epoch": float(np.median(self.seconds))}
        write_atomically(self.folder / "done", json.dumps(timing) + "\n")

    def _write_rows(self) -> None:
        write_atomically(self.folder / "metrics.jsonl", "".join(json.dumps(_finite(row)) + "\n" for row in self.rows))

    def _check_same_setting(self) -> None:
        before = read_json(self.folder / "args.json")
        now = json.loads(json.dumps(vars(self.args)))
        changed = [
            f"--{name} was {before.get(name)}, is {now[name]}"
            for name in now
            if name not in MACHINE_FLAGS and before.get(name) != now[name]
        ]
        if changed:
            raise RunError(f"{self.folder} holds a run of another setting ({'; '.join(changed)}): choose --tag")


def run_folder(args: Namespace) -> Path:
    return Path(args.out) / args.dataset / args.method / args.tag / f"seed{args.seed}"


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint without executing anything in it, onto the CPU.

    Raises:
        RunError: if the file is missing, truncated, or not a checkpoint of this repository.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken archive makes it raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"{path} is damaged or not a checkpoint ({reason}): delete it to start the run anew") from None
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
        RunError: if the file is missing or a line is not a JSON object.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): start in another --tag") from None
    if not all(isinstance(row, dict) and "epoch" in row for row in rows):
        raise RunError(f"{path} is damaged (a line is not an epoch's record): start in another --tag")
    return rows


def read_json(path: Path) -> dict:
    """Raises RunError if the file is missing or damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): choose another --tag") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged (not a JSON object): choose another --tag")
    return found


def write_predictions(folder: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write predictions.npz: (N,) class numbers of the test samples in their order, `target` and those by each rule."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: np.asarray(values, np.int32) for name, values in arrays.items()})
    write_atomically(folder / "predictions.npz", buffer.getvalue())


def read_predictions(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of predictions.npz; {} where a run of an earlier version has none.

    Raises:
        RunError: if the file is damaged.
    """
    path = folder / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        return {}
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


def make_folder(path: Path) -> None:
    """Raises RunError if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {path} ({error.strerror}): choose --out") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path} ({error.strerror})") from error


def _finite(value):
    """JSON has no NaN and no infinity; they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
