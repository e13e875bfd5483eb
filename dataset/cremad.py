"""CREMA-D: 7442 clips of 91 actors, 6 emotions (Cao et al., IEEE Transactions on Affective Computing 2014)."""

from dataclasses import replace

from dataset.classes import EMOTIONS
from dataset.clips import AudioVisualClips
from dataset.recipes.audio import LogSpectrogram
from utils.numbers import positive_float


class CREMAD(AudioVisualClips):
    """Recipe of the paper's public code: sound repeated to 3 s, 22050 Hz, 1 x 257 x 188; 3 frames at 3 per second."""

    classes = EMOTIONS
    audio = LogSpectrogram(sample_rate=22050, seconds=3.0, n_fft=512, hop=353)
    group = "actor"
    protocol = "public code"
    defaults = dict(
        data_root="data/CREMAD", fps=3, frames=3, image_size=224, batch_size=64, epochs=50,
        optimizer="sgd", lr=2e-3, momentum=0.9, weight_decay=1e-4, lr_step=30, lr_gamma=0.1,
    )  # fmt: skip
    method_defaults = {
        # README of the public code of OGM-GE.
        "ogm": dict(alpha=0.8),
        "ogm_ge": dict(alpha=0.8),
        # Commands in the public code of PMR.
        "pmr": dict(alpha=2.0, modulation_ends=70, prototype_momentum=0.0),
        # Its authors' answers in issues 5 and 10 of their repository, for 1500 epochs.
        "agm": dict(alpha=1.5),
        # Public code: 744 of 6698 clips; its E, R and lambda, which are for this data set, are the flags' own defaults.
        "relearning": dict(held_out=0.111),
        # Comments in the scripts of the public code: 77.48 % with 4, 78.12 % with 5, by the best test epoch.
        "dgl": dict(alpha=4.0),
        # Script of the public code.
        "arl": dict(temperature=8.0),
    }

    def __init__(self, args, clips, modalities, train, source=None):
        # None also for a run from before there was the flag.
        self.audio = replace(self.audio, seconds=getattr(args, "seconds", None) or self.audio.seconds)
        super().__init__(args, clips, modalities, train, source)

    @classmethod
    def add_args(cls, group) -> None:
        super().add_args(group)
        group.add_argument(
            "--seconds", type=positive_float,
            help="of sound, repeated until it is as long; 3 without the flag; public code of LFM and AUG: 20",
        )  # fmt: skip
