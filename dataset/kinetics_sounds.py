"""Kinetics-Sounds: 31 classes of Kinetics that can be heard as well as seen (Arandjelovic and Zisserman, ICCV 2017)."""

from dataset.classes import ACTIONS
from dataset.clips import AudioVisualClips
from dataset.recipes.audio import Filterbank
from dataset.recipes.frames import segment_frames


class KineticsSounds(AudioVisualClips):
    """Recipe of the paper's public code: filterbank of 10 s, 1 x 1024 x 128; 3 frames at 1 per second.

    Training takes a random frame of each third, evaluation the middle one. (The public code's thirds are int(n / 3)
    frames long: of 10 frames it never reads the last and evaluates on the 1st, 4th and 7th; of 6 or fewer it reads the
    first, three times.)
    """

    classes = ACTIONS
    audio = Filterbank()
    training_frames = staticmethod(segment_frames)
    protocol = "public code"
    defaults = dict(
        data_root="data/KineticsSounds", fps=1, frames=3, image_size=224, batch_size=64, epochs=50,
        optimizer="sgd", lr=2e-3, momentum=0.9, weight_decay=1e-4, lr_step=30, lr_gamma=0.1,
    )  # fmt: skip
