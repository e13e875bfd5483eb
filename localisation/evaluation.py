"""What a trained stage makes of clips, beside the maps that know nothing of the sound, over the seeds of a setting."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dataset.loader import make_loader
from localisation import metrics
from localisation.data import Clips
from localisation.model import Localiser, build_localiser
from localisation.registry import LOCALISATION
from localisation.solo import Solo
from localisation.stage import SCALE, defined, objects_of, probabilities, sum_by_category
from methods.run import collect
from models.multimodal import place
from utils.errors import RunError, warn
from utils.runs.checkpoint import load_checkpoint, load_model

KINDS = ("solo", "mixed")


@dataclass(frozen=True)
class Trained:
    """A run's model on a device, with its arguments and the category of each cluster; None if that is not known."""

    model: Localiser
    args: Namespace
    matching: list[int] | None
    device: torch.device

    @property
    def categories(self) -> Sequence[str]:
        """The names of the categories."""
        return LOCALISATION[self.args.dataset].categories(self.args)

    def test(self, kind: str) -> Clips:
        """The test clips of a kind."""
        source = LOCALISATION[self.args.dataset]
        return (source.solo if kind == "solo" else source.mixed)(self.args, "test")


@dataclass(frozen=True)
class Seen:
    """Of N clips: location (N, h, w), the map l; maps (N, C, h, w), P by category; heard (N, C), head_a's softmax."""

    location: np.ndarray
    maps: np.ndarray
    heard: np.ndarray


def restore(folder: Path, flags: Namespace) -> Trained:
    """The run in `folder`; `flags` say where its data lie now (or None), the device, and how many workers read them.

    Raises:
        RunError: if its checkpoint is missing, damaged, or not one of a stage.
    """
    state = load_checkpoint(folder / "last.pt")
    args = Namespace(**state["args"])
    if args.dataset not in LOCALISATION or "matching" not in state["method"]:
        raise RunError(f"{folder} is no run of localise.py: give the folder of one")
    if not (folder / "done").exists():
        warn(f"{folder} is not finished: what follows is of its last checkpoint")
    args.data_root = flags.data_root or args.data_root
    args.workers = flags.workers
    model = build_localiser(args.encoder, args.clusters, args.seed)
    load_model(model, state, folder / "last.pt")
    place(model, flags.device)
    return Trained(model, args, state["method"]["matching"], flags.device)


def look(trained: Trained, data: Dataset, scale: float = SCALE) -> Seen:
    """What the model says of clips, at inference with the factor `scale` in the softmax of P.

    Raises:
        RunError: if the categories of its clusters are not known.
    """
    model, args = trained.model, trained.args
    if trained.matching is None:
        raise RunError(
            f"the run {args.tag}, seed {args.seed}, knows no category of its clusters: it has not come beyond its "
            "first round (train it for two or more), or its data have no labels"
        )

    def fn(batch) -> dict[str, Tensor]:
        features = model.encode(batch.inputs)
        return {
            "location": model.location(features["audio"], features["visual"]).sigmoid(),
            "maps": probabilities(model, features, scale, not getattr(args, "no_suppression", False)),
            "heard": model.classify(features)["audio"].softmax(dim=1),
        }

    loader = make_loader(data, args.batch_size, args.workers, pin=trained.device.type == "cuda")
    seen = {name: x.float().numpy() for name, x in collect(model, loader, trained.device, fn).items()}
    count = len(trained.categories)
    return Seen(
        seen["location"],
        metrics.class_maps(seen["maps"], trained.matching, count),
        sum_by_category(seen["heard"], trained.matching, count),
    )


def measure(trained: Trained, kind: str, scale: float = SCALE, references: bool = True) -> dict[str, dict[str, float]]:
    """{row: metrics} of the test clips of a kind: `maps`, and with `references` a row for each of these.

    Of solo clips it is the map l that is measured, without references but the whole image and the centre box.
    """
    data = trained.test(kind)
    seen, objects, size = look(trained, data, scale), objects_of(data), (trained.args.image_size,) * 2
    others = metrics.references(seen.location, len(trained.categories)) if references else {}
    if kind == "solo":
        rows = {"maps": seen.location} | {n: others[n][:, 0] for n in ("whole image", "centre box") if references}
        return {name: defined(metrics.evaluate_solo(maps, objects, size, data.ratio)) for name, maps in rows.items()}
    rows = {"maps": seen.maps} | dict(others)
    found = {name: defined(metrics.evaluate(maps, objects, size, data.ratio)) for name, maps in rows.items()}
    if trained.args.method == Solo.name:  # in the second stage the encoder moves on and the classifier does not
        found["maps"]["teacher_recall"] = metrics.recall(seen.heard, objects)
    return found


def compare(
    settings: Mapping[str, tuple[Sequence[Path], float]], kind: str, flags: Namespace, references: bool = True
) -> dict[str, list[dict[str, float]]]:
    """{row: metrics of each seed} of {row: (folders of its seeds, scale)} on the test clips of a kind.

    The references follow the rows; the class-agnostic map is every model's own, the others are all models' alike.
    """
    rows: dict[str, list[dict[str, float]]] = {}
    others: dict[str, list[dict[str, float]]] = {}
    for name, (folders, scale) in settings.items():
        alike: dict[str, list[dict[str, float]]] = {}
        for folder in folders:
            found = measure(restore(folder, flags), kind, scale, references)
            rows.setdefault(name, []).append(found.pop("maps"))
            if "class-agnostic" in found:
                others.setdefault(f"class-agnostic map, {name}", []).append(found.pop("class-agnostic"))
            for reference, values in found.items():
                alike.setdefault(reference, []).append(values)
        others |= {reference: values[:1] for reference, values in alike.items()}
    return rows | others


def draw_sheet(trained: Trained, solo: int, mixed: int, stem: Path) -> Path:
    """Write a contact sheet of the first `solo` and `mixed` test clips of each kind; returns its first file."""
    from localisation.pictures import Shown, write_sheet  # here, since numbers need no pictures

    shown = {}
    for kind, count in (("solo", solo), ("mixed", mixed)):
        data = trained.test(kind)
        part = Subset(data, range(min(count, len(data))))
        seen = look(trained, part)
        frames = torch.stack([data.frame(i) for i in part.indices])
        maps = seen.location if kind == "solo" else seen.maps
        shown[kind] = Shown(frames, maps, [data.objects(i) for i in part.indices])
    args = trained.args
    title = f"CSOL, {args.method} on {args.dataset}, {args.tag}, seed {args.seed}"
    return write_sheet(shown["solo"], shown["mixed"], trained.categories, trained.test("solo").ratio, stem, title)
