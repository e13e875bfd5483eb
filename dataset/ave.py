"""AVE: 28 events that are heard and seen, in videos of 10 s from YouTube (Tian et al., ECCV 2018)."""

from pathlib import Path

from dataset.classes import EVENTS
from dataset.clips import AudioVisualClips
from dataset.recipes.audio import LogSpectrogram
from dataset.recipes.frames import segment_frames
from dataset.splits import check_disjoint, read_split
from dataset.storage.index import folder_of


class AVE(AudioVisualClips):
    """Sound repeated to 10 s, 16 kHz, 1 x 257 x 1007; 4 frames, in training a random one of each fourth of the clip.

    A clip is the event alone, or the whole video, as it was prepared. The published validation list, val.csv, selects
    the epoch.
    """

    classes = EVENTS
    audio = LogSpectrogram(sample_rate=16000, seconds=10.0, n_fft=512, hop=159)
    training_frames = staticmethod(segment_frames)
    whole_videos = False
    protocol = "public code of PMR; fps, batch size and schedule after its CREMA-D"
    defaults = dict(
        data_root="data/AVE", fps=2, frames=4, image_size=224, batch_size=64, epochs=100,
        optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=1e-4, lr_step=70, lr_gamma=0.1,
    )  # fmt: skip

    @classmethod
    def read_splits(cls, args) -> tuple[list[tuple[str, int]], ...]:
        """The rows of the training, the test and the validation split, each clip in one of them only."""
        train, test = super().read_splits(args)
        val = read_split(cls.val_file(args), cls.classes)
        for part, name in ((train, "train"), (test, "test")):
            check_disjoint(part, val, folder_of(args.data_root), (name, "val"))
        return train, test, val

    @classmethod
    def split_files(cls, args) -> list[Path]:
        return [*super().split_files(args), cls.val_file(args)]

    @staticmethod
    def val_file(args) -> Path:
        """The file of the validation split."""
        return folder_of(args.data_root) / "val.csv"
