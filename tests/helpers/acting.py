"""What makes each method act within two epochs on little data, in words of the command line."""

from methods import METHODS
from methods.teachers import Taught

TAUGHT = {name for name, method in METHODS.items() if issubclass(method, Taught)}  # who needs --teachers

# A method that is not named acts by its defaults. The share is that in which every class of the small demo stands.
ACTING = {
    "unimodal": ["--modality", "visual"],
    "gblending": ["--held_out", "0.17", "--super_epoch", "2", "--estimate_epochs", "1"],
    "mslr": ["--modality_lr", "audio=0.5"],
    "pmr": ["--prototype_momentum", "0.5"],
    "inforeg": ["--threshold", "-10", "--start_epoch", "1", "--modulate_during", "all"],
    "amco": ["--mask_epochs", "1"],
    "opm": ["--warmup_epochs", "1"],
    "opm_ogm": ["--warmup_epochs", "1"],
    "valuation": ["--warmup", "1"],
    "arl": ["--warmup_epochs", "1"],
    "lfm": ["--projection", "4", "--alpha_schedule", "learned", "--held_out", "0.17"],
    "aug": ["--assign_every", "1", "--tau", "0", "--max_classifiers", "3"],
    "relearning": ["--held_out", "0.17", "--every", "1"],
    "reconboost": ["--phase_epochs", "1", "--rectify_epochs", "1"],
}


BY_EPOCHS = {"reconboost"}  # whose encoders take turns by epochs: in some an encoder has no gradient


def learns(method, traces):
    """Whether every encoder had gradients in an epoch of these Fisher traces {modality: trace}; by turns, any."""
    return (any if method in BY_EPOCHS else all)(trace > 0 for trace in traces.values())


def acting(method, *more):
    """The words that choose the method and let it act; `more` comes last, so it wins."""
    return ["--method", method, *ACTING.get(method, []), *more]
