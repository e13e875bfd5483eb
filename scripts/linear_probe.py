"""How much an encoder has learnt, whatever the fusion head made of it: a linear probe of its frozen features.

    python scripts/linear_probe.py results/GRID/joint/default/seed0/last.pt

For each modality a logistic regression (L2, C = 1, standardised features) is fitted on the training split's features,
without augmentation, and scored on the test split's. Prints one line per modality and writes probe.json beside the
checkpoint.
"""

import argparse
import json
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from methods.run import collect
from scripts.trained.restore import add_flags, restore
from utils.errors import one_sentence
from utils.files import write_atomically
from utils.lock import Lock

PROBE_LOCK = "probe.lock"


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Probe one checkpoint; returns {modality: test accuracy}.

    Raises:
        RunError: if the checkpoint or its data cannot be read; InUseError if another process probes it.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="last.pt or best.pt of a run")
    add_flags(parser)
    flags = parser.parse_args(argv)

    with Lock(flags.checkpoint.parent, PROBE_LOCK):
        scores = probe(flags)
        written = flags.checkpoint.parent / "probe.json"
        write_atomically(written, json.dumps(scores) + "\n")
    print(f"written: {written}")
    return scores


def probe(flags: argparse.Namespace) -> dict[str, float]:
    """{modality: test accuracy} of a probe of each encoder."""
    trained = restore(flags.checkpoint, flags)
    model = trained.method.model

    features = []
    for rows in trained.splits()[:2]:
        loader = trained.loader(trained.data(rows))
        features.append(
            collect(model, loader, trained.device, lambda batch: model.encode(batch.inputs) | {"": batch.target})
        )
    train, test = features
    scores = {}
    for name in model.modalities:
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        fitted.fit(train[name].numpy(), train[""].numpy())
        scores[name] = float(fitted.score(test[name].numpy(), test[""].numpy()))
        print(f"{name:>8}: {scores[name]:.2%}")
    return scores


if __name__ == "__main__":
    with one_sentence():
        main()
