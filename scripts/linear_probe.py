"""How much an encoder has learnt, whatever the fusion head made of it: a linear probe of its frozen features.

    python scripts/linear_probe.py results/GRID/joint/default/seed0/last.pt

For each modality a logistic regression (L2, C = 1, standardised features) is fitted on the training split's features,
without augmentation, and scored on the test split's. Of a run with --train_list it is fitted on the samples of the
list, the ones that have labels. Prints one line per modality and writes probe.json beside the checkpoint; with
--all_labels, which fits on the whole training split whatever the list, probe_all_labels.json.
"""

import argparse
import json

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dataset.base import targets_of
from methods.run import collect
from scripts.trained.restore import add_flags, restore
from utils.errors import RunError, one_sentence
from utils.files import write_atomically
from utils.lock import Lock
from utils.runs.checkpoint import checkpoint_of

PROBE_LOCK = "probe.lock"


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Probe one checkpoint; returns {modality: test accuracy}.

    Raises:
        RunError: if the checkpoint, its data or its list cannot be read, or there is one class only; InUseError if
            another process probes it.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=checkpoint_of, help="last.pt or best.pt of a run, or its folder")
    parser.add_argument("--all_labels", action="store_true", help="fit on the whole training split")
    add_flags(parser)
    flags = parser.parse_args(argv)

    with Lock(flags.checkpoint.parent, PROBE_LOCK):
        scores = probe(flags)
        written = flags.checkpoint.parent / ("probe_all_labels.json" if flags.all_labels else "probe.json")
        write_atomically(written, json.dumps(scores) + "\n")
    print(f"written: {written}")
    return scores


def probe(flags: argparse.Namespace) -> dict[str, float]:
    """{modality: test accuracy} of a probe of each encoder."""
    trained = restore(flags.checkpoint, flags)
    model = trained.method.model

    train_rows, test_rows, *_ = trained.splits()
    known = trained.data(train_rows) if flags.all_labels else trained.labelled(train_rows)
    if len(set(targets_of(known))) < 2:
        raise RunError(f"{flags.checkpoint}: the samples that it was trained on are of one class, so nothing is fitted")
    train, test = (
        collect(
            model, trained.loader(data), trained.device, lambda batch: model.encode(batch.inputs) | {"": batch.target}
        )
        for data in (known, trained.data(test_rows))
    )
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
