"""The control of every multimodal method: the average of the unimodal models' predictions, on the test split.

    python scripts/ensemble.py results/GRID/unimodal/modality=audio/seed0/last.pt \\
        results/GRID/unimodal/modality=visual/seed0/last.pt

Takes a checkpoint of `--method unimodal` for each modality, all of the same data and seed. The prediction is the mean
of the models' softmax probabilities or, with `--average logits`, of their logits. Writes
<out>/<data set>/ensemble/<tag>/seed<k>/{args.json, result.json, done}, which scripts/collect.py reads as one more row:
rule `last` from last.pt and rule `val` from best.pt. Where every run has its best.pt beside the last.pt that is named,
both are written at once.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from dataset import DATASETS, checksums
from dataset.base import Batch
from engine.evaluate import metrics_of, predict
from models.multimodal import Output
from scripts.experiments.ensembles import ENSEMBLE, folder_of_ensemble
from scripts.results.folder import tables_of
from scripts.results.tables import markdown
from scripts.trained.restore import Trained, add_flags, rebuild
from utils.errors import RunError, one_sentence
from utils.files import write_checked
from utils.lock import Lock
from utils.precision import autocast
from utils.runs.checkpoint import load_checkpoint
from utils.runs.files import read_json
from utils.runs.predictions import arrays_of, read_predictions, write_predictions
from utils.runs.provenance import provenance
from utils.runs.setting import MACHINE_FLAGS, differing, flags_added, run_folder
from utils.runs.setting import setting as setting_of


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Evaluate one ensemble; returns its metrics: loss, accuracy, macro F1 and each modality's own accuracy (0..1).

    Raises:
        RunError: if a checkpoint or the data cannot be read, if the models do not belong together, or if the folder
            holds the ensemble of other runs; InUseError if another process is at it.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="last.pt, or best.pt, of a unimodal run per modality")
    parser.add_argument("--average", choices=AVERAGES, default="probabilities", help="of what (default: probabilities)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of all results (default: results)")
    add_flags(parser)
    argv = sys.argv[1:] if argv is None else argv
    flags = parser.parse_args(argv)

    rule, models = load(flags.checkpoints, flags)
    by_rule = {rule: models}
    best = [path.with_name("best.pt") for path in flags.checkpoints]
    if rule == "last" and all(path.exists() for path in best):
        by_rule |= [load(best, flags)]
    first = next(iter(models.values()))
    args = first.args

    runs = {name: trained.args for name, trained in models.items()}
    folder = folder_of_ensemble(runs, flags.out.resolve(), flags.average)
    tag = folder.parent.name
    setting = {"dataset": args.dataset, "method": ENSEMBLE, "tag": tag, "seed": args.seed, "average": flags.average}
    setting["runs"] = {name: run_of(run) for name, run in runs.items()}
    with Lock(folder):
        result, kept = earlier(folder, setting), read_predictions(folder)
        data = first.data(first.splits()[1], tuple(models))
        loader = first.loader(data)
        for name, of_rule in by_rule.items():
            together = nn.ModuleList(trained.method.model for trained in of_rule.values())
            predictions = predict(together, forward(of_rule, flags.average), loader, first.device)
            result[name] = metrics_of(predictions)
            kept |= {"names": data.names, "classes": first.state["classes"], "heads": list(predictions.classes)}
            kept |= {"target": predictions.target} | arrays_of(name, predictions.stacked())
        origin = {"provenance": [provenance("scripts/ensemble.py", argv, first.device, checksums(args))]}
        write_predictions(folder, kept)
        for name, content in {"args.json": setting | origin, "result.json": result, "done": {}}.items():
            write_checked(folder / name, json.dumps(content, indent=2) + "\n")
    (table,) = tables_of({(args.dataset, ENSEMBLE, tag): [folder]}, rule)
    print(f"{markdown(table)}\nwritten to {folder}")
    return result[rule]


def load(paths: list[Path], flags: argparse.Namespace) -> tuple[str, dict[str, Trained]]:
    """The rule that the checkpoints follow, and {modality: its trained model} in the data set's order.

    Raises:
        RunError: if a checkpoint cannot be read, or they do not belong together.
    """
    states = [load_checkpoint(path) for path in paths]
    rule = rule_of(paths, states)
    check_together([state["args"] for state in states], moved=flags.data_root is not None)
    models = {s["args"]["modality"]: rebuild(s, path, flags) for s, path in zip(states, paths, strict=True)}
    first = next(iter(models.values()))
    return rule, {name: models[name] for name in first.source.encoders(first.args) if name in models}


def mean_probability(logits: Tensor) -> Tensor:
    """(M, B, C) logits of M models -> (B, C) logarithms of their mean probabilities."""
    return logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))


AVERAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "probabilities": mean_probability,
    "logits": lambda logits: logits.mean(dim=0),
}


def forward(models: Mapping[str, Trained], average: str) -> Callable[[Batch], Output]:
    """The ensemble as evaluation calls it: each model in the precision of its run, then their average.

    Classes have the numbers of the first model.
    """
    names = next(iter(models.values())).state["classes"]
    order = {name: [trained.state["classes"].index(label) for label in names] for name, trained in models.items()}

    def predict(batch: Batch) -> Output:
        unimodal = {}
        for name, trained in models.items():
            with autocast(batch.target.device, trained.args.precision):
                unimodal[name] = trained.method.forward(batch).logits[:, order[name]]
        # In double precision: what one model tells apart stays apart in the average of equal models.
        together = AVERAGES[average](torch.stack([logits.double() for logits in unimodal.values()]))
        return Output(together, unimodal, {}, batch.target)

    return predict


def rule_of(paths: list[Path], states: list[dict]) -> str:
    """`val` for checkpoints that are called best.pt, `last` for others.

    Raises:
        RunError: for a mixture, or a last.pt of a run that has not come to its last epoch.
    """
    best = [path.name == "best.pt" for path in paths]
    if all(best):
        return "val"
    if any(best):
        raise RunError("best.pt and last.pt follow different rules: give the one or the other of every run")
    for path, state in zip(paths, states, strict=True):
        stopped_early = state["args"].get("patience") and (path.parent / "done").exists()
        if state["epoch"] + 1 < state["args"]["epochs"] and not stopped_early:
            reached = f"epoch {state['epoch'] + 1} of {state['args']['epochs']}"
            raise RunError(f"{path} is of {reached}: finish its run with --resume first")
    return "last"


def check_together(runs: list[dict], moved: bool) -> None:
    """Refuse arguments that are not of unimodal runs which make an ensemble; `moved`: --data_root says where to read.

    Raises:
        RunError: with the difference, if they are not.
    """
    for args in runs:
        if args["method"] != "unimodal":
            raise RunError(f"a checkpoint is one of --method {args['method']}: an ensemble is of --method unimodal")
    names = [args["modality"] for args in runs]
    if len(names) < 2:
        raise RunError(f"an ensemble needs two modalities or more, not {names[0]} alone")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise RunError(f"{', '.join(twice)} more than once: an ensemble has one model per modality")
    shared = ["dataset"]
    if len({args["dataset"] for args in runs}) == 1:  # otherwise their flags are not the same either
        shared += [
            flag for flag in flags_added(DATASETS[runs[0]["dataset"]].add_args).values() if flag not in MACHINE_FLAGS
        ]
        shared += ["train_noise", "val_fraction", "seed", *([] if moved else ["data_root"])]
    settings = {name: {flag: args.get(flag) for flag in shared} for name, args in zip(names, runs, strict=True)}
    for name, args in zip(names, runs, strict=True):
        settings[name]["train_list"] = setting_of(args).get("train_list")  # by its name, wherever it lies
    differences = [
        f"--{flag} is " + ", ".join(f"{value} for {name}" for name, value in values.items())
        for flag, values in differing(settings).items()
    ]
    if differences:
        raise RunError(f"{'; '.join(differences)}: an ensemble is of models of the same data and seed")


def run_of(args: argparse.Namespace) -> str:
    """The folder that the run wrote: its name, wherever its checkpoint lies now."""
    return str(run_folder(args))


def earlier(folder: Path, setting: dict) -> dict[str, dict[str, float]]:
    """The metrics by rule that `folder` holds.

    Raises:
        RunError: if they are those of another ensemble.
    """
    if not (folder / "args.json").exists():
        return {}
    before = read_json(folder / "args.json")
    if before | setting != before:
        were = ", ".join(before.get("runs", {}).values())
        raise RunError(f"{folder} holds the ensemble of other runs ({were}): choose --out")
    return read_json(folder / "result.json") if (folder / "result.json").exists() else {}


if __name__ == "__main__":
    with one_sentence():
        main()
