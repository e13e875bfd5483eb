"""Pictures of a run, drawn from its metrics alone."""

import matplotlib

matplotlib.use("Agg")


def draw(rows, folder):
    pass
