"""last.pt and best.pt: what of a run they hold, when they are written, and how a run goes on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dataset import preparation
from engine.totals import Totals
from engine.watch import Watch
from inforeg.movement import Movement
from methods.base import Method
from methods.run import Run
from utils.distributed.processes import agreed
from utils.errors import RunError, warn
from utils.runs.checkpoint import load_model, load_newest, write_checkpoint
from utils.runs.generators import random_states, restore_random_states
from utils.runs.history import Epoch, History
from utils.runs.setting import plain_args
from utils.stopping import Stopped, asked


@dataclass
class Begun:
    """How far an epoch had come when its checkpoint was written within it; `vars` of it are plain values."""

    seconds: float  # that the epoch had taken
    device: str  # the kind of device that it ran on
    step: int = 0  # steps done
    totals: dict | None = None  # the sums over them (engine/totals.py)
    movement: dict | None = None  # how the encoders have moved (inforeg/movement.py)
    trained: dict | None = None  # the epoch's line, once it is trained and not evaluated yet


class Checkpoints:
    """Written after every epoch; within one where --checkpoint_minutes have passed, or a signal ends the run.

    `classes` are the names of the classes by their numbers, `prepared` the settings with which the data were prepared,
    for programs that restore the model on other data.
    """

    def __init__(
        self,
        run: Run,
        method: Method,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        history: History,
        classes: Sequence[str],
    ):
        self.run, self.method, self.schedule, self.history = run, method, schedule, history
        self.folder, self.classes = history.folder, list(classes)
        self.prepared = preparation(run.args)
        self._sound = True  # whether last.pt, where there is one, may become previous.pt
        self._written = time.monotonic()  # when last.pt was
        self._began = 0.0  # when this epoch did

    def restore(self) -> Begun | None:
        """Go on from the newest checkpoint, if there is one; returns how far the next epoch had come, if it had begun.

        Raises:
            RunError: if it is damaged, another model's, another setting's or another kind of device's; if a checkpoint
                cannot hold the state of the method.
        """
        state = self._load()
        if state is not None:
            load_model(self.run.model, state, self.folder.path / "last.pt")
            self.method.load_state_dict(on_device(state["method"], self.run.device))
            self.run.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
        self.run.epoch = len(self.history.epochs)
        self.method.on_fit_start(self.run)
        begun = Begun(**state["begun"]) if state is not None and state["begun"] else None
        if begun is not None and begun.device != self.run.device.type:
            there = begun.device
            raise RunError(f"the checkpoint was written within an epoch on {there}: go on with --device {there}")
        self._state_of_method()  # or refuse it now
        if state is not None:
            restore_random_states(state["random"])
        return begun

    def _load(self) -> dict | None:
        """The newest checkpoint, whose history is taken over; None if the run has none yet."""
        state, damaged = load_newest(self.folder.path)
        if state is None:
            return None
        last = self.folder.path / "last.pt"
        self._sound = damaged is None
        if damaged and self.folder.writes:
            warn(f"{last} is damaged ({damaged.reason}): going on with previous.pt, {state['epoch'] + 1} epochs")
        self.folder.check_checkpoint(state)
        if "optimizer" not in state:
            raise RunError(f"{last} holds the weights alone, as a best.pt does: start in another --tag")
        self.history.load_state_dict(state)
        return state

    def start_epoch(self, begun: Begun | None) -> None:
        """Begin to count the seconds of an epoch, which may have begun before."""
        self._began = time.perf_counter() - (begun.seconds if begun else 0)

    @property
    def seconds(self) -> float:
        """Seconds of this epoch so far, also before the run was broken off."""
        return time.perf_counter() - self._began

    def after_epoch(self) -> None:
        """Save the epoch that `history` ends with; its weights also as best.pt, if it is the best on validation."""
        epoch = self.run.epoch
        if self.history.chosen().get("val") == epoch:
            self.write("best.pt", {"model": self.run.model.state_dict(), "epoch": epoch})
        self.save()

    def save(self, begun: Begun | None = None) -> None:
        """Write last.pt: everything that the run needs to go on."""
        parts = {"model": self.run.model, "optimizer": self.run.optimizer, "schedule": self.schedule}
        state = {name: part.state_dict() for name, part in parts.items()} | self.history.state_dict()
        state |= {"method": self._state_of_method(), "random": random_states(), "begun": begun and vars(begun)}
        self.write("last.pt", state)

    def write(self, name: str, state: dict) -> None:
        """Write a checkpoint with the run's arguments; a last.pt that is sound becomes previous.pt."""
        if not self.folder.writes:
            return
        self.folder.lock.check()
        last = name == "last.pt"
        before = self.folder.path / "previous.pt" if last and self._sound else None
        state = state | {"args": plain_args(self.run.args), "classes": self.classes, "prepared": self.prepared}
        write_checkpoint(self.folder.path / name, state, before)
        if last:
            self._sound, self._written = True, time.monotonic()

    def after_step(self, totals: Totals, watch: Watch, movement: Movement) -> None:
        """Save, where it is time to, and stop, where that is asked for.

        Raises:
            Stopped: if the run has been sent a signal.
        """
        run = self.run
        minutes = run.args.checkpoint_minutes
        overdue = minutes and time.monotonic() - self._written > 60 * minutes
        number, due = agreed([asked(), int(overdue)])
        if number or due:
            watch.close()
            sums = (totals.state_dict(), movement.state_dict())
            self.save(Begun(self.seconds, run.device.type, run.step, *sums))
        if number:
            raise Stopped(number, f" in epoch {run.epoch + 1}, step {run.step}")

    def before_evaluation(self, epoch: Epoch) -> None:
        """Save an epoch that is trained, whose evaluation a signal has broken off."""
        self.save(Begun(self.seconds, self.run.device.type, trained=epoch.plain()))

    def _state_of_method(self) -> dict:
        state = self.method.state_dict()
        check_state(state, f"the state of {type(self.method).__name__}")
        return state


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
