"""The folder of one run: its arguments, its lock, and what keeps another run from going on in it."""

import json
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from utils.distributed.processes import rank
from utils.errors import InUseError, RunError
from utils.files import make_folder, remove_parts, write_checked
from utils.lock import Lock, owner
from utils.runs.checkpoint import load_newest
from utils.runs.files import read_json
from utils.runs.setting import changes, plain_args, prolongs, run_folder


class RunFolder:
    """results/<dataset>/<method>/<tag>/seed<k>/ with

        args.json       the arguments; `provenance`: command, code, machine and data of each process that worked on it
        metrics.jsonl   a line per epoch
        last.pt         model, method, optimizer, schedule, random states and metrics after the last finished epoch;
                        `begun` says how far the next one had come, if the checkpoint was written within it
        previous.pt     the last.pt before, until the run is done
        best.pt         the weights of the epoch that the validation split selects, where there is one
        predictions.npz the class that each test sample has (`target`) and is given, by the rules of result.json
        result.json     last epoch, validation-selected epoch, and oracle (best test epoch, the papers' rule)
        done            written last; holds the seconds per epoch
        checksums.txt   sha256 of all these (utils/files.py)
        figures/, events.*
        not_finite.json the step that stopped the run, if one has, until it is done

    Of several processes only the first `writes`, and only while it holds the `lock`.

    Raises:
        InUseError: if another process is at it.
        RunError: if the folder holds a run and --resume was not given, or a run of another setting.
    """

    def __init__(self, args: Namespace):
        self.args = args
        self.path = run_folder(args)
        self.writes = rank() == 0
        self.lock = Lock(self.path)
        self.shorter: int | None = None  # epochs of the run that the folder holds, if this one goes on beyond them
        if not self.done and (who := owner(self.path)):
            raise InUseError(self.path, who)
        before = read_json(self.path / "args.json") if (self.path / "args.json").exists() else None
        if any((self.path / name).exists() for name in ("args.json", "last.pt", "previous.pt")) and not args.resume:
            raise RunError(f"{self.path} holds {self._held(before)}")
        if before:
            self._check_setting(before, "a run")
            self.shorter = before["epochs"] if prolongs(before, vars(args)) else None

    def _held(self, before: Mapping | None) -> str:
        """Which run there is, by its arguments, and what to do where --resume was not given."""
        state = "a finished run" if self.done else "an unfinished run"
        if before and before.get("data_root") != self.args.data_root:
            return f"{state} on {before.get('data_root')}: choose --tag or --out; if the data have moved, add --resume"
        go_on = "--resume, its --tag and more epochs to go beyond its end" if self.done else "--resume to go on with it"
        return f"{state}: add {go_on}, or choose --tag or --out"

    def check_data(self, checksums: Mapping[str, str | None] | None) -> None:
        """Compare the data on disk with those of the run that the folder holds, by `dataset.checksums`.

        Raises:
            RunError: if they are others: a test sample of the one may be a training sample of the other.
        """
        path = self.path / "args.json"
        before = read_json(path) if path.exists() else {}
        for entry in before.get("provenance", []):
            known = entry.get("data") or {}
            changed = [name for name, now in (checksums or {}).items() if now and known.get(name, now) != now]
            if changed:
                raise RunError(
                    f"{self.path} holds a run on other data: {', '.join(changed)} of {self.args.data_root} are not "
                    f"those of {before['data_root']}, which it has read; choose --tag, --out or the other --data_root"
                )

    def check_weights(self, checksums: Mapping[str, str]) -> None:
        """Compare the files of --weights, {modality: sha256}, with those that the folder's run began with.

        Raises:
            RunError: if they are others.
        """
        path = self.path / "args.json"
        for entry in read_json(path).get("provenance", []) if path.exists() else []:
            if changed := [name for name, now in checksums.items() if entry.get("weights", {}).get(name, now) != now]:
                raise RunError(
                    f"{self.path} holds a run that began with other weights of {', '.join(changed)}, whose sha256 its "
                    "args.json has: give the same files, or choose --tag"
                )

    def check_checkpoint(self, state: Mapping) -> None:
        """Raises RunError if the checkpoint `state` is one of another setting."""
        self._check_setting(state["args"], "the checkpoint of a run")

    def _check_setting(self, before: Mapping, what: str) -> None:
        if changed := changes(before, vars(self.args)):
            raise RunError(f"{self.path} holds {what} of another setting ({'; '.join(changed)}): choose --tag")

    def create(self, provenance: dict) -> None:
        """Make the folder, unless a run to be resumed has made it; call it once the data are known to be good.

        `provenance` (utils/runs/provenance.py) is added to that of the processes which have worked on the run before.
        """
        if not self.writes:
            return
        make_folder(self.path / "figures")
        remove_parts(self.path)
        path = self.path / "args.json"
        if not path.exists():  # a checkpoint may be there without it, and must be this run's
            state, _ = load_newest(self.path)
            if state is not None:
                self.check_checkpoint(state)
        written = read_json(path) if path.exists() else plain_args(self.args)
        if self.shorter:
            (self.path / "done").unlink(missing_ok=True)  # first: it is not true of args.json any more
            written, self.shorter = written | {"epochs": self.args.epochs}, None
        history = [*written.get("provenance", []), provenance]
        write_checked(path, json.dumps(written | {"provenance": history}, indent=2) + "\n")

    def hold(self) -> AbstractContextManager:
        """Keep other processes out while the run is written. A finished one may lie where nothing can be written."""
        return self.lock if self.writes and not self.done else nullcontext()

    @property
    def done(self) -> bool:
        """Whether the run has come to its end, which is no earlier than its arguments say."""
        return (self.path / "done").exists() and not self.shorter

    @property
    def result(self) -> dict:
        """What result.json of a finished run holds."""
        return read_json(self.path / "result.json")
