"""Choose which samples of a training split to label first, by the features of a model that was trained without labels.

    python scripts/select_subset.py --strategy mmcsal --budget 300 --features RUN/last.pt --out few.txt

RUN is that of `scripts/pretrain.py`; the pool is what it was trained on. Writes the names of the samples, in the order
in which they were chosen, for `main.py --train_list few.txt`, and beside them few.json: the modality gap of the pool,
how well the modalities of its samples and of those chosen agree (the mean cosine), and what the strategy tells of its
work. No label is read. docs/METHODS.md says what the strategies do.
"""

import argparse
import json
from pathlib import Path

from scripts.trained.pool import pool_of
from scripts.trained.restore import add_flags, restore
from selection import STRATEGIES, select
from selection.features import alignment, gap
from utils.errors import CombinationError, RunError, one_sentence
from utils.files import make_folder, write_atomically
from utils.numbers import count, not_negative, positive


def main(argv: list[str] | None = None) -> dict:
    """Choose samples; returns what the .json holds.

    Raises:
        RunError: if the checkpoint or its data cannot be read, or the strategy is not defined for them.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", choices=STRATEGIES, required=True, help="how to choose")
    parser.add_argument("--budget", type=positive, required=True, metavar="N", help="how many samples to choose")
    parser.add_argument("--features", type=Path, required=True, metavar="CKPT", help="last.pt of a pretraining run")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the list to write, a .txt")
    parser.add_argument("--seed", type=count, default=0, help="of the strategy's draws (default: 0)")
    parser.add_argument("--lambda_align", type=not_negative, help="of mmcsal: weight of the alignment (default: 1)")
    add_flags(parser)
    flags = parser.parse_args(argv)
    if flags.out.suffix != ".txt":
        raise CombinationError(f"--out {flags.out} does not end in .txt: the .json of that name lies beside it")
    options = {} if flags.lambda_align is None else {"align": flags.lambda_align}
    if options and flags.strategy != "mmcsal":
        raise CombinationError(f"--lambda_align is of --strategy mmcsal, not of {flags.strategy}")
    pool = pool_of(restore(flags.features, flags))
    try:
        chosen = select(flags.strategy, pool.features, flags.budget, flags.seed, **options)
    except ValueError as error:
        raise RunError(f"{flags.features}: {error}") from None
    told = {"strategy": flags.strategy, "budget": flags.budget, "seed": flags.seed, "pool": len(pool.names)}
    told |= facts_of(pool.features, chosen.positions) | chosen.facts
    make_folder(flags.out.parent)
    write_atomically(flags.out.with_suffix(".json"), json.dumps(told, indent=2) + "\n")
    write_atomically(flags.out, "".join(f"{pool.names[position]}\n" for position in chosen.positions))
    print(
        ", ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in told.items()
        )
    )
    print(f"written to {flags.out}")
    return told


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
