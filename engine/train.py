"""The training loop. It knows the Method contract and nothing of any method."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from dataset.base import Batch, MultimodalDataset
from engine import callbacks
from engine.checkpoints import Begun, Checkpoints
from engine.evaluate import evaluate_splits
from engine.progress import Lines, Scalars, bar_of, glimpse
from engine.totals import Totals
from engine.watch import NotFinite, Watch, check_finite, vital
from inforeg.movement import Movement
from inforeg.window import Metrics
from methods.base import Method
from methods.run import Run
from models.multimodal import MultimodalModel, Output, clip_gradients
from utils.distributed.gradients import agree
from utils.distributed.processes import rank
from utils.errors import RunError
from utils.precision import autocast
from utils.runs.folder import RunFolder
from utils.runs.history import Epoch, History
from utils.schedule import make_schedule
from utils.stopping import Stopped

AfterStep = Callable[[Totals, Watch, Movement], None]


def fit(
    run: Run,
    method: Method,
    test: MultimodalDataset,
    classes: Sequence[str],
    folder: RunFolder,
    lines: Lines | None = None,
) -> History:
    """Train from the last checkpoint on (or from the start) to the last epoch.

    `lines` say of each epoch what a person wants to see of it; without, the accuracies.

    Raises:
        RunError: if the checkpoint is damaged or another model's; NotFinite if a number of a step is not finite;
            Stopped if the run has been sent a signal.
    """
    schedule = make_schedule(run.optimizer, run.args)
    history = History(folder, test.names, classes)
    checkpoints = Checkpoints(run, method, schedule, history, classes)
    begun = checkpoints.restore()
    scalars, lines = Scalars(folder, run.epoch), lines or Lines(run.args.epochs)
    for number in range(run.epoch, run.args.epochs):
        if history.stalled(run.args.patience):
            tqdm.write(f"stopped after epoch {number}: {run.args.patience} epochs without a better one on validation")
            break
        run.epoch = number
        checkpoints.start_epoch(begun)
        if begun and begun.trained:
            epoch = Epoch.of_line(begun.trained)
        else:
            epoch = train_and_record(run, method, schedule, folder, begun, checkpoints.after_step)
        begun = None
        try:
            epoch.evaluated, predictions = evaluate_splits(run, method, {"val": run.val, "test": test})
        except Stopped as error:
            checkpoints.before_evaluation(epoch)
            raise Stopped(error.number, f" in epoch {number + 1}, which is trained but not evaluated") from None
        check_finite(epoch)  # the weights of the epoch's last step have been in no training loss
        seconds = checkpoints.seconds
        tqdm.write("\n".join(lines.of(epoch, seconds)))
        scalars.write(epoch, seconds)
        history.append(epoch, predictions, seconds)
        if folder.writes:
            callbacks.call(epoch, run.args)
        checkpoints.after_epoch()
    scalars.close()
    return history


def train_and_record(
    run: Run, method: Method, schedule, folder: RunFolder, begun: Begun | None, after_step: AfterStep
) -> Epoch:
    """Train one epoch; returns its record without evaluation.

    Raises:
        NotFinite: as `train_epoch` does, after not_finite.json has been written.
        RunError: if a batch is too small to be normalised.
    """
    lr = run.optimizer.param_groups[0]["lr"]
    try:
        means, moved = train_epoch(run, method, begun, after_step)
    except NotFinite as error:
        error.write(folder.path)
        raise
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunError("batch normalisation needs more than one sample: choose another --batch_size") from None
    agree(run.model)
    epoch = Epoch(run.epoch, lr, means, method.on_epoch_end(run) | moved)
    with warnings.catch_warnings():  # a run that goes on after an epoch's last step has taken none in this process
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        schedule.step()
    return epoch


def train_epoch(
    run: Run, method: Method, begun: Begun | None = None, after_step: AfterStep = lambda *_: None
) -> tuple[dict[str, float], Metrics]:
    """One epoch; means over its samples of the losses and of the training accuracies, and how the encoders moved.

    `begun` says how far it had come before; `after_step` is called with the sums, the watch and the movement.

    Raises:
        NotFinite: if a feature, a loss or a gradient is not; on CUDA some steps later, but never at the epoch's end.
    """
    totals, watch = Totals(), Watch(run.epoch, behind=run.device.type == "cuda")
    movement = Movement(run.model.encoders, run.optimizer)
    run.step = 0
    if begun is None:
        method.on_epoch_start(run)
        movement.start_epoch()
    else:
        run.step = begun.step
        movement.load_state_dict(begun.movement)
        totals.load_state_dict(begun.totals, run.device)
    loader = run.loader(method.train_data(run), first=run.step)
    run.model.train()
    quiet = True if rank() else None  # None: where the output is no terminal
    label, total = f"epoch {run.epoch + 1}/{run.args.epochs}", run.step + len(loader)
    look = bar_of(label, total)
    with tqdm(loader, **look, initial=run.step, leave=False, disable=quiet) as bar:
        for batch in bar:
            losses, output = step(run, method, batch.to(run.device), movement)
            totals.add(losses, output)
            watch.add(run.step, batch.index, vital(method, losses, output))
            watch.look()
            if totals.due():
                bar.set_postfix_str(glimpse(totals.glance(), label, total))
            run.step += 1
            after_step(totals, watch, movement)
    watch.close()
    run.step = 0
    return totals.read(), movement.end_epoch()


def step(run: Run, method: Method, batch: Batch, movement: Movement | None = None) -> tuple[dict[str, Tensor], Output]:
    """One step of the optimizer on a batch that lies on the run's device; its losses and its output."""
    in_precision = autocast(run.device, run.args.precision)
    method.trace.start_step()
    output = in_precision(method.forward)(batch)
    losses = in_precision(method.losses)(output)
    run.optimizer.zero_grad()
    method.backward(losses)
    if movement:
        movement.update()
    method.after_backward(output)
    clip_gradients(method.clipped(), run.args.clip_norm)
    align_gradients(run.model)
    run.optimizer.step()
    return losses, output


def align_gradients(model: MultimodalModel) -> None:
    """Give gradients the memory layout of their parameters, which fused optimizers take for granted.

    Those of `backward` have it. One that a method has put there may not, and would be applied to the wrong weights
    without a word (PyTorch 2.11, on CPU).
    """
    for p in model.parameters():
        if p.grad is not None and p.grad.stride() != p.stride():
            p.grad = torch.empty_like(p).copy_(p.grad)
