"""What the epochs of a run, as metrics.jsonl has them, say of its regulation."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FREE = 0.9  # a hold above it is that of an encoder which nothing held


@dataclass
class Regulated:
    """How one encoder was regulated over a run.

    epochs: in which it was, of `of`; share: of the steps of these epochs; hold: its mean over these epochs, or over all
    epochs where there are none (inforeg/movement.py); None if no epoch has one.
    """

    epochs: int
    of: int
    share: float
    hold: float | None


def regulated(rows: Sequence[Mapping], name: str) -> Regulated:
    """How the encoder of modality `name` was regulated."""
    shares = [row.get("regulated", {}).get(name) or 0.0 for row in rows]
    acted = [share for share in shares if share > 0]
    holds = [row["hold"][name] for row, share in zip(rows, shares, strict=True) if share > 0 or not acted]
    holds = [hold for hold in holds if hold is not None]
    share = sum(acted) / len(acted) if acted else 0.0
    return Regulated(len(acted), len(rows), share, sum(holds) / len(holds) if holds else None)


def describe_regulation(rows: Sequence[Mapping], args: Namespace) -> str | None:
    """A line on which encoders were regulated and how much was held, with what to change where nothing was.

    `args` are the run's. None for a method that does not regulate as InfoReg does.
    """
    if "regulated" not in rows[0]:
        return None
    records = {name: regulated(rows, name) for name in rows[0]["regulated"]}
    acted = {name: each for name, each in records.items() if each.epochs}
    if not acted and len(rows) <= args.start_epoch and not args.window_every:
        return (
            f"nothing was regulated: no window opens in the first {args.start_epoch} epochs; try more --epochs, or a "
            "lower --start_epoch"
        )
    other_window = "" if args.window == "accumulated" else "--window accumulated, or "
    if not acted and not any(row["prime_window"][name] for row in rows for name in records):
        why = "Eq. 11 needs a trace that grows: " if args.window == "paper" else ""
        return (
            f"nothing was regulated: no prime window opened in {len(rows)} epochs; {why}try {other_window}a lower "
            "--threshold"
        )
    if not acted:
        return (
            "nothing was regulated: the windows were open before --start_epoch, or of encoders that were behind; try "
            f"{other_window}a lower --threshold"
        )
    parts = [
        f"{name} in {each.epochs} of {each.of} epochs, {each.share:.0%} of their steps"
        + ("" if each.hold is None else f", hold {each.hold:.2f}")
        for name, each in acted.items()
    ]
    line = f"regulated: {'; '.join(parts)}"
    if args.clip_norm is not None:
        line += "; a gradient that --clip_norm shortens counts as held"
    holds = [each.hold for each in acted.values() if each.hold is not None]
    if holds and min(holds) > FREE:
        line += "; that holds nothing: raise --lr or --beta, or give an epoch more steps"
    return line
