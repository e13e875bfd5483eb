"""last.pt: what of a run it holds, when it is written, and how a run goes on from it."""

import time
from typing import Any

import torch
from torch import Tensor

from engine.watch import Watch
from methods.base import Method
from methods.run import Run
from utils.distributed.processes import agreed
from utils.errors import RunError
from utils.runs.checkpoint import load_model
from utils.runs.folder import Record, plain
from utils.runs.generators import random_states, restore_random_states
from utils.stopping import Stopped, asked


class Checkpoints:
    """Written after every epoch; within one where --checkpoint_minutes have passed, or a signal ends the run."""

    def __init__(self, run: Run, method: Method, schedule: torch.optim.lr_scheduler.LRScheduler, record: Record):
        self.run, self.method, self.schedule, self.record = run, method, schedule, record
        self._began = 0.0  # this epoch

    def restore(self) -> dict | None:
        """Go on from the last one, if there is one; returns what was saved within an epoch, if it was.

        Raises:
            RunError: if it is damaged, another model's or another kind of device's; if a checkpoint cannot hold the
                state of the method.
        """
        state = self.record.load()
        if state is not None:
            load_model(self.run.model, state, self.record.folder / "last.pt")
            self.method.load_state_dict(on_device(state["method"], self.run.device))
            for part in ("optimizer", "schedule"):
                self._parts()[part].load_state_dict(state[part])
        self.run.epoch = len(self.record.rows)
        self.method.on_fit_start(self.run)
        begun = state.get("begun") if state is not None else None
        if begun is not None and begun["device"] != self.run.device.type:
            there = begun["device"]
            raise RunError(f"the checkpoint was written within an epoch on {there}: go on with --device {there}")
        check_state(self.method.state_dict(), f"the state of {type(self.method).__name__}")
        if state is not None:
            restore_random_states(state["random"])
        return begun

    def start_epoch(self, begun: dict | None) -> None:
        self._began = time.perf_counter() - (begun["seconds"] if begun else 0)

    @property
    def seconds(self) -> float:
        """Of this epoch so far, also before the run was broken off."""
        return time.perf_counter() - self._began

    def save(self, **more) -> None:
        now = {name: part.state_dict() for name, part in self._parts().items()} | {"random": random_states()}
        check_state(now["method"], f"the state of {type(self.method).__name__}")
        done = {"predictions": self.record.predictions, "epoch": len(self.record.rows) - 1}
        self.record.save("last.pt", now | done | more)

    def after_step(self, totals, watch: Watch) -> None:
        """Save, where it is time to, and stop, where that is asked for.

        Raises:
            Stopped: if the run has been sent a signal.
        """
        run = self.run
        minutes = run.args.checkpoint_minutes
        overdue = minutes and time.monotonic() - self.record.saved > 60 * minutes
        number, due = agreed([asked(), int(overdue)])
        where = f" in epoch {run.epoch + 1}, step {run.step}"
        if number or due:
            watch.close()
            self._save_within(step=run.step, totals=totals.state_dict())
        if number:
            raise Stopped(number, where)

    def before_evaluation(self, row: dict) -> None:
        """Save an epoch that is trained, whose evaluation a signal has broken off."""
        self._save_within(row=plain(row))

    def _save_within(self, **progress) -> None:
        self.save(begun={"seconds": self.seconds, "device": self.run.device.type} | progress)

    def _parts(self) -> dict:
        """Whatever has a state, by its name in the checkpoint."""
        run = self.run
        return {"model": run.model, "method": self.method, "optimizer": run.optimizer, "schedule": self.schedule}


def check_state(value: Any, name: str) -> None:
    """See that a checkpoint can hold `value`: tensors, plain values, and lists, tuples and dicts of these.

    Raises:
        RunError: if not; `name` says what it is.
    """
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_state(item, f"{name}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            check_state(item, f"{name}[{key!r}]")
    elif not isinstance(value, Tensor) and type(value) not in (type(None), bool, int, float, str):
        raise RunError(
            f"{name} is a {type(value).__name__}, which no checkpoint can hold: let state_dict() give tensors and "
            "plain values"
        )


def on_device(value: Any, device: torch.device) -> Any:
    """A state with its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(on_device(item, device) for item in value)
    return {key: on_device(item, device) for key, item in value.items()} if isinstance(value, dict) else value
