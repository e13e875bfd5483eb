"""Choose which samples of a training split to label first, or next, by what a model knows of them.

    python scripts/select_subset.py --strategy mmcsal --budget 300 --features RUN/last.pt --out few.txt
    python scripts/select_subset.py --strategy badge --from few.txt --budget 600 --features RUN/last.pt --out more.txt

In the first line nothing is labelled yet: RUN is that of `scripts/pretrain.py`, and the pool what it was trained on. In
the second one RUN was trained on few.txt: its list is kept, and samples of the rest of the training split are added
until it has as many as --budget says. entropy, badge and bmmal go by what that model says of them, coreset by its
features, random by lot.

Writes the names of the samples, in the order in which they were chosen, for `main.py --train_list few.txt`, and beside
them few.json: the modality gap of the pool, how well the modalities of its samples and of those chosen agree (the mean
cosine), and what the strategy tells of its work. No label is read. docs/METHODS.md says what the strategies do.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from dataset.registry import places_of
from engine.hints import one_of
from scripts.trained.pool import pool_of, scored_by
from scripts.trained.restore import add_flags, restore
from selection import ADDING, STRATEGIES, WARM, select, select_next
from selection.features import alignment, gap
from utils.errors import CombinationError, RunError, one_sentence
from utils.files import make_folder, write_atomically
from utils.numbers import count, not_negative, positive
from utils.runs.checkpoint import checkpoint_of


def main(argv: list[str] | None = None) -> dict:
    """Choose samples; returns what the .json holds.

    Raises:
        RunError: if the checkpoint or its data cannot be read, or the strategy is not defined for them.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--strategy",
        choices=[*STRATEGIES, *WARM],
        type=one_of([*STRATEGIES, *WARM]),
        required=True,
        help="how to choose",
    )
    parser.add_argument("--budget", type=positive, required=True, metavar="N", help="how many samples the list has")
    parser.add_argument(
        "--features",
        type=checkpoint_of,
        required=True,
        metavar="CKPT",
        help="last.pt of the run to go by, or its folder",
    )
    parser.add_argument("--from", dest="known", type=Path, metavar="FILE", help="the list of what is labelled already")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the list to write, a .txt")
    parser.add_argument("--seed", type=count, default=0, help="of the strategy's draws (default: 0)")
    parser.add_argument("--lambda_align", type=not_negative, help="of mmcsal: weight of the alignment (default: 1)")
    add_flags(parser)
    flags = parser.parse_args(argv)
    check(flags)
    names, positions, told = chosen_by(flags)
    make_folder(flags.out.parent)
    write_atomically(flags.out.with_suffix(".json"), json.dumps(told, indent=2) + "\n")
    write_atomically(flags.out, "".join(f"{names[position]}\n" for position in positions))
    print(
        ", ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in told.items()
        )
    )
    print(f"written to {flags.out}")
    return told


def check(flags: argparse.Namespace) -> None:
    """Raises CombinationError for flags that do not go together."""
    if flags.out.suffix != ".txt":
        raise CombinationError(f"--out {flags.out} does not end in .txt: the .json of that name lies beside it")
    if flags.lambda_align is not None and flags.strategy != "mmcsal":
        raise CombinationError(f"--lambda_align is of --strategy mmcsal, not of {flags.strategy}")
    if flags.strategy in WARM and not flags.known:
        raise CombinationError(
            f"--strategy {flags.strategy} adds to what is labelled: give the list on which {flags.features} was "
            "trained by --from"
        )
    if flags.known and flags.strategy not in (*ADDING, *WARM):
        raise CombinationError(
            f"--from is for {', '.join((*ADDING, *WARM))}: {flags.strategy} chooses all samples at once"
        )


def chosen_by(flags: argparse.Namespace) -> tuple[Sequence[str], list[int], dict]:
    """The names of the pool, the positions of those that the list has, and what the .json holds.

    Raises:
        RunError: as `main`.
    """
    trained = restore(flags.features, flags)
    rows = trained.splits()[0]
    data = trained.data(rows) if flags.known else trained.labelled(rows)
    known = places_of(flags.known, data, "--from") if flags.known else []
    budget = flags.budget - len(known)
    if known and budget <= 0:
        raise RunError(f"--budget {flags.budget}: {flags.known} has {len(known)} samples already")
    pool = pool_of(trained, data)
    try:
        if flags.strategy in WARM:
            chosen = select_next(flags.strategy, scored_by(trained, data), known, budget, flags.seed)
        else:
            options = {} if flags.lambda_align is None else {"align": flags.lambda_align}
            options |= {"labelled": known} if known else {}
            chosen = select(flags.strategy, pool.features, budget, flags.seed, **options)
    except ValueError as error:
        raise RunError(f"{flags.features}: {error}") from None
    told = {"strategy": flags.strategy, "budget": flags.budget, "seed": flags.seed, "pool": len(pool.names)}
    told |= {"labelled": len(known)} if known else {}
    told |= facts_of(pool.features, chosen.positions) | chosen.facts
    return pool.names, [*known, *chosen.positions.tolist()], told


def facts_of(features, positions) -> dict[str, float]:
    """The gap and the alignments, where the modalities' features can be compared."""
    try:
        agree = alignment(features)
    except ValueError:
        return {}
    return {
        "gap": gap(features), "alignment_of_pool": float(agree.mean()),
        "alignment_of_chosen": float(agree[positions].mean()),
    }  # fmt: skip


if __name__ == "__main__":
    with one_sentence():
        main()
