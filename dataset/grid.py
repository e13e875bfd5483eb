"""GRID: spoken words cut out of the GRID audio-visual sentences (Cooke, Barker, Cunningham and Shao, JASA 2006)."""

from dataset.classes import WORDS
from dataset.clips import AudioVisualClips
from dataset.recipes.audio import LogSpectrogram


class GRID(AudioVisualClips):
    """One spoken word a clip, 0.64 s, 16 frames at 25 per second; small enough to train on a CPU.

    The sound is short, so it is not repeated to 3 s: 40 log-mel bands, 32 ms windows every 25 ms, 1 x 40 x 26. The
    mouth moves little in its frame, so crops keep at least nine tenths of it. No paper of this field reports on it.
    """

    audio = LogSpectrogram(sample_rate=16000, seconds=0.64, n_fft=512, hop=400, mels=40)
    crop_scale = (0.9, 1.0)
    group = "speaker"
    whole_videos = False
    protocol = "ours"
    defaults = dict(
        data_root="data/GRID", fps=25, frames=3, image_size=32, batch_size=32, epochs=10,
        optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-4, lr_step=7, lr_gamma=0.1,
    )  # fmt: skip
    # The same part of the training as the published 20 of 90 epochs, and 5 of 60.
    method_defaults = {"relearning": dict(every=2), "valuation": dict(warmup=1)}

    @classmethod
    def add_args(cls, group) -> None:
        super().add_args(group)
        group.add_argument(
            "--position", choices=WORDS, default="digit", help="the word that the data were prepared for"
        )

    @classmethod
    def class_names(cls, args):
        return WORDS[args.position]
