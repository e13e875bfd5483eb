"""Epochs of every method on tiny models, with flags by which each acts within four epochs."""

from engine.train import train_epoch

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")

N, WITHHELD, BATCH, EPOCHS = 24, 9, 6, 4

STEPS = N // BATCH

# Beside ACTING, so that each changes what it does, and has something to carry over, within four epochs.
FLAGS = {
    "ogm": dict(modulation_starts=1, modulation_ends=2),
    "ogm_ge": dict(modulation_starts=1, modulation_ends=2),
    "greedy": dict(epsilon=1e-6),
    "pmr": dict(prototype_share=0.5, per_epochs=2, modulation_ends=2),
    "g2d": dict(priority_epochs=2),
}


def epoch_of(method, run, epoch):
    run.epoch = epoch
    return train_epoch(run, method), method.on_epoch_end(run)
