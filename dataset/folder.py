"""folder: any videos with sound that data/prepare_videos.py has prepared (Violent Flows, VGGSound, your own)."""

from pathlib import Path

from dataset.clips import AudioVisualClips
from dataset.cremad import CREMAD
from dataset.lists import read_classes
from dataset.recipes.audio import Filterbank, LogSpectrogram
from dataset.recipes.frames import random_frames, segment_frames
from dataset.storage.index import folder_of
from utils.numbers import positive_float


class Folder(AudioVisualClips):
    """The classes are those of the folder's classes.txt; the recipes follow from the flags.

    Sound: `--seconds` of CREMA-D's log-spectrogram, or of Kinetics-Sounds' filterbank with 100 windows a second.
    """

    protocol = "ours, after the public code's for CREMA-D"
    defaults = CREMAD.defaults | dict(data_root="data/folder", fps=1)

    def __init__(self, args, clips, modalities, train, source=None):
        self.audio = sound_recipe(args)
        self.training_frames = {"segments": segment_frames, "random": random_frames}[args.frame_choice]
        super().__init__(args, clips, modalities, train, source)

    @classmethod
    def add_args(cls, group) -> None:
        super().add_args(group)
        group.add_argument(
            "--audio", choices=("spectrogram", "fbank"), default="spectrogram",
            help="spectrogram: log-magnitude at 22050 Hz, CREMA-D's; fbank: Kaldi's at 16000 Hz, Kinetics-Sounds'",
        )  # fmt: skip
        group.add_argument(
            "--seconds", type=positive_float, default=3.0,
            help="of sound; shorter clips are repeated (spectrogram) or followed by zeros (fbank)",
        )  # fmt: skip
        group.add_argument(
            "--frame_choice", choices=("segments", "random"), default="segments",
            help="frames in training: one of each of --frames equal parts of the clip, or any",
        )  # fmt: skip

    @classmethod
    def split_files(cls, args) -> list[Path]:
        """The splits and the class names, whose order numbers the classes."""
        return [*super().split_files(args), folder_of(args.data_root) / "classes.txt"]

    @classmethod
    def class_names(cls, args) -> list[str]:
        remedy = "prepare the videos with data/prepare_videos.py, or set --data_root"
        return read_classes(folder_of(args.data_root) / "classes.txt", remedy)


def sound_recipe(args) -> LogSpectrogram | Filterbank:
    """The recipe that --audio and --seconds ask for."""
    if args.audio == "fbank":
        return Filterbank(frames=max(1, round(args.seconds * 100)))
    return LogSpectrogram(sample_rate=22050, seconds=args.seconds, n_fft=512, hop=353)
