"""How well a model's features separate the classes: t-SNE of each modality, the paper's Figures 6 and 9.

    python scripts/tsne.py results/GRID/joint/default/seed0/last.pt

t-SNE (van der Maaten and Hinton, JMLR 2008; scikit-learn's defaults, seed 0, started from the principal components) of
the test split's features, coloured by class. Beside it the mean silhouette (Rousseeuw 1987), from -1 to 1, of the
classes among the features themselves, not in the picture, whose distances mean little. Prints a line per modality and
writes figures/tsne_<modality>.svg, .pdf, .png and .csv beside the checkpoint.
"""

import argparse

from scripts.drawing.maps import write_maps
from scripts.trained.restore import add_flags
from utils.errors import one_sentence
from utils.runs.checkpoint import checkpoint_of


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Map one checkpoint's features; returns {modality: mean silhouette}.

    Raises:
        RunError: if the checkpoint or its data cannot be read, or the test split has one class only.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=checkpoint_of, help="last.pt or best.pt of a run, or its folder")
    add_flags(parser)
    flags = parser.parse_args(argv)
    silhouettes = {n: float(m.silhouettes.mean()) for n, m in write_maps(flags.checkpoint, flags).items()}
    for name, silhouette in silhouettes.items():
        print(f"{name:>8}: silhouette {silhouette:+.3f}")
    print(f"written: {flags.checkpoint.parent / 'figures' / 'tsne_<modality>.svg'}, .pdf, .png and .csv")
    return silhouettes


if __name__ == "__main__":
    with one_sentence():
        main()
