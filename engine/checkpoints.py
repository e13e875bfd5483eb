"""last.pt: what of a run it holds, when it is written, and how a run goes on from it."""

import time

import torch

from engine import snapshot
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
            RunError: if it is damaged, another model's or another kind of device's.
        """
        state = self.record.load()
        if state is not None:
            load_model(self.run.model, state, self.record.folder / "last.pt")
            for name, part in self._parts().items():
                if name != "model":
                    part.load_state_dict(state[name])
        self.run.epoch = len(self.record.rows)
        self.method.on_fit_start(self.run)
        begun = state.get("begun") if state is not None else None
        if begun is not None and begun["device"] != self.run.device.type:
            there = begun["device"]
            raise RunError(f"the checkpoint was written within an epoch on {there}: go on with --device {there}")
        if self.run.args.checkpoint_minutes:
            snapshot.take(self.method)  # or refuse it now
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
            try:
                self._save_within(step=run.step, totals=totals.state_dict(), method=snapshot.take(self.method))
            except RunError as error:
                if not number:
                    raise
                where += f", and this epoch's steps are lost ({error})"
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
