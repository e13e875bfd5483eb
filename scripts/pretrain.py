"""Train encoders without labels (MMCSAL, first stage), to choose samples to label and to start training from.

    python scripts/pretrain.py --dataset CREMAD
    python scripts/select_subset.py --strategy mmcsal --budget 300 --features RUN/last.pt --out few.txt
    python main.py --dataset CREMAD --method inforeg --train_list few.txt --weights audio=RUN/last.pt

The flags are main.py's with --method mmcsal, which `python main.py --method mmcsal --help` lists, and so is all else:
the run's folder RUN, --resume, checkpoints, several processes. `--prototypes 0` matches the modalities alone.
docs/METHODS.md has the equations.
"""

import argparse

import main as program
from engine.parser import parse
from utils.errors import CombinationError, one_sentence
from utils.runs.files import read_epochs
from utils.runs.setting import run_folder


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train by the command line `argv`; returns the modality gap of the last epoch, by modality.

    Raises:
        RunError: as main.py.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    _, argv = parser.parse_known_args(argv)
    if any(word.partition("=")[0] == "--method" for word in argv):
        raise CombinationError("--method is for main.py: this program has one, mmcsal")
    argv = ["--method", "mmcsal", *argv]
    program.main(argv)
    folder = run_folder(parse(argv))
    gap = read_epochs(folder, "modality_gap")[-1]["modality_gap"]
    told = ", ".join(f"{name} {value:.3f}" for name, value in gap.items())
    print(f"no label was read and no classifier trained: accuracies mean nothing\nmodality gap: {told}")
    return gap


if __name__ == "__main__":
    with one_sentence():
        main()
