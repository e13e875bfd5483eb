"""Clips decoded once in a process, as most of the time of a small run would go into its sounds and pictures."""

from pathlib import Path

from dataset.recipes import frames
from dataset.recipes.audio import Filterbank, LogSpectrogram, read_wave
from dataset.recipes.corrupt import unchanged

SOUNDS, PICTURES = {}, {}  # what a file gave, until it changes: its content, its permissions or its place


def state(path):
    """What changes with the file."""
    found = path.stat()
    return path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def remember(patch):
    """Let the recipes remember what a file gave, until `patch` (a MonkeyPatch) is undone."""
    for recipe in (LogSpectrogram, Filterbank):
        patch.setattr(recipe, "__call__", remembering_sound(recipe.__call__))
    patch.setattr(frames, "read_picture", remembering_picture(frames.read_picture))


def remembering_sound(call):
    def heard(recipe, path, corrupt=unchanged):
        if not isinstance(path, Path):
            return call(recipe, path, corrupt)
        key = recipe, state(path)
        if key not in SOUNDS:
            SOUNDS[key] = read_wave(path, recipe.sample_rate), call(recipe, path)
        wave, spectrogram = SOUNDS[key]
        return spectrogram.clone() if corrupt(wave) is wave else call(recipe, path, corrupt)

    return heard


def remembering_picture(read):
    def seen(file):
        if not isinstance(file, Path):
            return read(file)
        key = state(file)
        if key not in PICTURES:
            PICTURES[key] = read(file)
        return PICTURES[key].copy()

    return seen
