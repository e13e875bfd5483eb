"""The classes of clips by a trained model: of raw videos, sounds with their frames, or folders of clips.

    python scripts/predict.py results/CREMAD/inforeg/default/seed0/last.pt clip.mp4 more_clips
    python scripts/predict.py results/CREMAD/inforeg/default/seed0/last.pt data/CREMAD --format csv > probabilities.csv

A CLIP is a video file, a .wav beside a folder of frames that has its name (or in the layout of a data set), such a
folder of frames, or a folder with any of these in it. A clip is decoded as the evaluation decodes those of the model's
own data set, which need not be there. Prints the most probable classes of each clip, by the fused prediction and by
each modality's read-out; csv has the probabilities (0..1) of all classes.
"""

import argparse
import sys
from pathlib import Path

import torch

from engine.predict import Predicted, load
from scripts.results.render import FORMS, render
from utils.errors import one_sentence
from utils.numbers import count, positive
from utils.runs.checkpoint import checkpoint_of


def main(argv: list[str] | None = None) -> Predicted:
    """Predict and print; returns the probabilities.

    Raises:
        RunError: if the checkpoint cannot be read or is of a data set without clips; DataError for a clip that cannot.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=checkpoint_of, help="last.pt or best.pt of a run, or its folder")
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP", help="a clip, or a folder of clips")
    parser.add_argument("--format", choices=FORMS, default="md", help="of the table (default: md)")
    parser.add_argument("--top", type=positive, default=3, help="classes that a table shows, not csv (default: 3)")
    parser.add_argument("--workers", type=count, default=2, help="processes that decode (default: 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    flags = parser.parse_args(argv)
    model = load(flags.checkpoint, flags.device)
    predicted = model.predict(flags.clips, flags.workers)
    header, rows = (
        every_class(predicted, model.classes) if flags.format == "csv" else best(predicted, model.classes, flags.top)
    )
    sys.stdout.write(render(header, rows, flags.format, "Probabilities of the most probable classes"))
    return predicted


def every_class(predicted: Predicted, classes: tuple[str, ...]) -> tuple[list[str], list[list]]:
    """A row for each clip and head: the class that is predicted, then the probabilities of all."""
    rows = [
        [clip, head, classes[int(shares[k].argmax())], *shares[k].tolist()]
        for k, clip in enumerate(predicted.clips)
        for head, shares in predicted.probabilities.items()
    ]
    return ["clip", "by", "predicted", *classes], rows


def best(predicted: Predicted, classes: tuple[str, ...], top: int) -> tuple[list[str], list[list[str]]]:
    """A row for each clip and head: its most probable classes, the likeliest first."""
    top = min(top, len(classes))
    rows = []
    for k, clip in enumerate(predicted.clips):
        for head, shares in predicted.probabilities.items():
            likeliest = zip(*(part.tolist() for part in shares[k].topk(top)), strict=True)
            rows.append([clip, head, *(f"{classes[number]} {share:.1%}" for share, number in likeliest)])
    return ["clip", "by", *map(str, range(1, top + 1))], rows


if __name__ == "__main__":
    with one_sentence():
        main()
