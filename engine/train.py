"""The training loop. It knows the Method contract and nothing of any method."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from dataset.base import Batch, Dataset
from dataset.loader import make_loader
from engine.checkpoints import Checkpoints
from engine.evaluate import figures, predict
from engine.setup import autocast
from engine.totals import Totals
from engine.watch import NotFinite, Watch, vital
from methods.base import Method
from methods.run import Run
from models.multimodal import MultimodalModel, Output
from utils.distributed.gradients import agree
from utils.distributed.processes import rank
from utils.errors import RunError
from utils.runs.folder import Record
from utils.stopping import Stopped

AfterStep = Callable[["Totals", Watch], None]


def fit(run: Run, method: Method, test: Dataset, record: Record) -> dict:
    """Train from the last checkpoint on (or from the start) to the last epoch; returns what result.json holds.

    Raises:
        RunError: if the checkpoint is damaged or another model's; NotFinite if a number of a step is not finite;
            Stopped if the run has been sent a signal.
    """
    from torch.utils.tensorboard import SummaryWriter  # here, since it takes a second to load

    schedule = torch.optim.lr_scheduler.StepLR(run.optimizer, run.args.lr_step, run.args.lr_gamma)
    checkpoints = Checkpoints(run, method, schedule, record)
    begun = checkpoints.restore()
    watched = {name: data for name, data in (("val", run.val), ("test", test)) if data is not None}
    writer = SummaryWriter(record.folder, purge_step=run.epoch) if record.writes else None
    for epoch in range(run.epoch, run.args.epochs):
        checkpoints.start_epoch(begun)
        run.epoch = epoch
        row = begun and begun.get("row")
        if row is None:
            row = trained(run, method, schedule, record, begun, checkpoints.after_step)
        begun = None
        try:
            figures_of, found = evaluated(run, method, watched)
        except Stopped as error:
            checkpoints.before_evaluation(row)
            raise Stopped(error.number, f" in epoch {epoch + 1}, which is trained but not evaluated") from None
        row |= figures_of
        check_finite(row, watched)  # the weights of the epoch's last step have been in no training loss
        record.predictions |= {"target": found["target"].int(), epoch: found["accuracy"].int()}
        record.seconds.append(checkpoints.seconds)
        tqdm.write(f"epoch {epoch + 1:>3}/{run.args.epochs}  {describe(row)}  {record.seconds[-1]:.0f} s")
        if writer:
            write_scalars(writer, row, record.seconds[-1])
        record.append(row)
        chosen = {figures["epoch"] for figures in summarise(record.rows).values()}  # no other will be, any more
        record.predictions = {key: kept for key, kept in record.predictions.items() if key in {"target", *chosen}}
        if run.val is not None and epoch == best_epoch(record.rows, "val"):
            record.save("best.pt", {"model": run.model.state_dict(), "epoch": epoch})
        checkpoints.save()
    if writer:
        writer.close()
    return summarise(record.rows)


def trained(run: Run, method: Method, schedule, record: Record, begun: dict | None, after_step: AfterStep) -> dict:
    """The record of one epoch, trained and not evaluated yet."""
    row = {"epoch": run.epoch, "lr": run.optimizer.param_groups[0]["lr"]}
    try:
        row["train"] = train_epoch(run, method, begun, after_step)
    except NotFinite as error:
        record.keep_batch(error.found)
        raise
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunError("batch normalisation needs more than one sample: choose another --batch_size") from None
    agree(run.model)
    row |= method.on_epoch_end(run)
    schedule.step()
    return row


def evaluated(run: Run, method: Method, splits: Mapping[str, Dataset]) -> tuple[dict, dict[str, Tensor]]:
    """The figures of each split, and what was found of every sample of the last one.

    Raises:
        Stopped: if the run has been sent a signal.
    """
    row, found = {}, {}
    for name, data in splits.items():
        loader = make_loader(data, run.args.batch_size, run.args.workers, pin=run.device.type == "cuda")
        found = predict(run.model, autocast(run, method.forward), loader, run.device)
        row[name] = figures(found)
    return row, found


def train_epoch(
    run: Run, method: Method, begun: dict | None = None, after_step: AfterStep = lambda *_: None
) -> dict[str, float]:
    """One epoch; means over its samples of the losses and of the training accuracies.

    `begun` is what was saved within it; `after_step` is called with the sums and the watch.

    Raises:
        NotFinite: if a feature, a loss or a gradient is not; on CUDA some steps later, but never at the epoch's end.
    """
    totals, watch = Totals(), Watch(run.epoch, behind=run.device.type == "cuda")
    run.step = 0
    if begun is None:
        method.on_epoch_start(run)
    else:
        run.step = begun["step"]
        totals.load_state_dict(begun["totals"], run.device)
    loader = run.loader(method.train_data(run), first=run.step)
    run.model.train()
    quiet = True if rank() else None  # None: where the output is no terminal
    label, total = f"epoch {run.epoch + 1}/{run.args.epochs}", run.step + len(loader)
    with tqdm(loader, desc=label, total=total, initial=run.step, leave=False, disable=quiet) as bar:
        for batch in bar:
            losses, output = step(run, method, batch.to(run.device))
            totals.add(losses, output)
            watch.add(run.step, batch.index, vital(method, losses, output))
            watch.look()
            if totals.due():
                bar.set_postfix(totals.glance())
            run.step += 1
            after_step(totals, watch)
    watch.close()
    run.step = 0
    return totals.read()


def step(run: Run, method: Method, batch: Batch) -> tuple[dict[str, Tensor], Output]:
    """One step of the optimizer on a batch that lies on the run's device; its losses and its output."""
    output = autocast(run, method.forward)(batch)
    losses = autocast(run, method.losses)(output)
    run.optimizer.zero_grad()
    method.backward(losses)
    method.after_backward(output)
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


def check_finite(row: dict, splits: Iterable[str]) -> None:
    """Stop before weights that are of no use replace the checkpoint."""
    figures_of = ((split, name, value) for split in splits for name, value in row[split].items())
    wrong = [f"{split} {name}" for split, name, value in figures_of if not math.isfinite(value)]
    if wrong:
        raise RunError(
            f"{', '.join(wrong)} became NaN or infinite in epoch {row['epoch'] + 1}: lower --lr, or check the data; "
            "the checkpoint of the epoch before is kept"
        )


def describe(row: dict) -> str:
    """An epoch in one line: the loss, then accuracies, fused and of each modality."""
    parts = [f"loss {row['train']['loss']:.3f}"]
    for split in ("train", "val", "test"):
        if split in row:
            figures = {"fused": row[split]["accuracy"]} | {name: row[split][name] for name in row["fisher_trace"]}
            parts.append(f"{split}: " + " ".join(f"{name} {value:.1%}" for name, value in figures.items()))
    opened = [name for name, is_open in row["prime_window"].items() if is_open]
    return "  ".join(parts) + (f"  window open: {' '.join(opened)}" if opened else "")


def best_epoch(rows: list[dict], split: str) -> int:
    """The first epoch with the highest accuracy on `split`."""
    return max(rows, key=lambda row: (row[split]["accuracy"], -row["epoch"]))["epoch"]


def summarise(rows: list[dict]) -> dict:
    """Test figures by selection rule: `last`, `val` (when there is a validation share), and `oracle`.

    `oracle` is the best test epoch: the rule behind the papers' figures, and a look at the test set.
    """
    chosen = {"last": len(rows) - 1, "oracle": best_epoch(rows, "test")}
    if "val" in rows[-1]:
        chosen["val"] = best_epoch(rows, "val")
    return {rule: {"epoch": epoch} | rows[epoch]["test"] for rule, epoch in chosen.items()}


def write_scalars(writer, row: dict, seconds: float) -> None:
    for group, values in row.items():
        for name, value in values.items() if isinstance(values, dict) else [("", values)]:
            if value is not None and group != "epoch":
                writer.add_scalar(f"{group}/{name}" if name else group, float(value), row["epoch"])
    writer.add_scalar("seconds", seconds, row["epoch"])
    writer.flush()
