"""The loader of audio-visual clips as this field writes it: it decodes, resamples and transforms at every access.

It gives what dataset/clips.py gives, but for the draws (tests/scripts/test_benchmark_data.py).
"""

import os
import random
from argparse import Namespace
from pathlib import Path

import librosa
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms

from dataset.clips import AudioVisualClips
from dataset.recipes.audio import LogSpectrogram


class PublicClips(Dataset):
    """The training split of `args`' data set. Sample: spectrogram (F, T), frames (3, T, H, W), class number."""

    def __init__(self, args: Namespace, source: type[AudioVisualClips], clips: list[tuple[str, int]]):
        self.args, self.recipe, self.clips = args, source.audio, clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i: int):
        clip, label = self.clips[i]
        root = Path(self.args.data_root)

        sound, rate = librosa.load(os.path.join(root, "AudioWAV", clip + ".wav"), sr=self.recipe.sample_rate)
        length = round(rate * self.recipe.seconds)
        sound = np.tile(sound, 1 + length // len(sound))[:length]
        sound[sound > 1.0] = 1.0
        sound[sound < -1.0] = -1.0
        spectrogram = librosa.stft(sound, n_fft=self.recipe.n_fft, hop_length=self.recipe.hop)
        spectrogram = np.log(np.abs(spectrogram) + 1e-7)

        transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(self.args.image_size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )
        folder = os.path.join(root, f"Image-{self.args.fps:02d}-FPS", clip)
        files = sorted(os.listdir(folder))
        images = torch.zeros((self.args.frames, 3, self.args.image_size, self.args.image_size))
        for place, chosen in enumerate(sorted(random.sample(range(len(files)), self.args.frames))):
            image = Image.open(os.path.join(folder, files[chosen])).convert("RGB")
            images[place] = transform(image)
        return spectrogram, images.permute(1, 0, 2, 3), label


def has_public_loader(source: type, args: Namespace) -> bool:
    """Whether this loader is for a data set: one whose sound is such a spectrogram, in files that lie in a folder."""
    if not issubclass(source, AudioVisualClips) or not (Path(args.data_root) / "AudioWAV").is_dir():
        return False
    return isinstance(source.audio, LogSpectrogram) and source.audio.mels is None
