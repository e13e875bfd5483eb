"""What names a run: the flags of its setting, and its folder."""

from argparse import Namespace
from pathlib import Path

# What may change between a run and its continuation, and does not name a setting.
MACHINE_FLAGS = (
    "data_root", "cache", "cache_root", "device", "workers", "checkpoint_minutes", "out", "tag", "resume", "seed",
)  # fmt: skip


def run_folder(args: Namespace) -> Path:
    return Path(args.out) / args.dataset / args.method / args.tag / f"seed{args.seed}"
