"""Epochs of every method on tiny models, with flags by which each acts within four epochs."""

from engine.train import train_epoch

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")

N, WITHHELD, BATCH, EPOCHS = 24, 9, 6, 4

STEPS = N // BATCH

# So that each acts, and has something to carry over, within four epochs.
FLAGS = {
    "inforeg": dict(threshold=-1e9, start_epoch=1, modulate_during="all"),
    "gblending": dict(super_epoch=2, estimate_epochs=1),
    "ogm": dict(modulation_starts=1, modulation_ends=2),
    "ogm_ge": dict(modulation_starts=1, modulation_ends=2),
    "greedy": dict(counting_epochs=1, epsilon=1e-6),
    "pmr": dict(prototype_momentum=0.5, prototype_share=0.5, per_epochs=2, modulation_ends=2),
    "opm": dict(warmup_epochs=1),
    "opm_ogm": dict(warmup_epochs=1),
    "valuation": dict(warmup=1),
    "relearning": dict(every=1),
    "g2d": dict(priority_epochs=2),
}


def epoch_of(method, run, epoch):
    run.epoch = epoch
    return train_epoch(run, method), method.on_epoch_end(run)
