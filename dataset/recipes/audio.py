"""Audio recipes: from a .wav file to the picture that the audio encoder sees.

`corrupt` is what noise makes of the wave as it is read: before it is repeated, cut or clipped.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchaudio.compliance.kaldi import fbank

from dataset.recipes.compiled import compiling
from dataset.recipes.corrupt import Corrupt, unchanged
from dataset.recipes.truncated import truncation

MOST_SAMPLES = 2**28  # of a clip, over all channels: 1 GB; an hour and a half of stereo at 22050 Hz
LOUDEST = 8.0  # 18 dB above full scale: a mix in floating point may exceed 1, but not by more


class Librosa(NamedTuple):
    """The functions of librosa that the recipes use."""

    stft: Callable
    resample: Callable
    mel: Callable


@cache
def librosa() -> Librosa:
    """Load librosa, at its first use, since training from a cache does without it.

    Call this before loader processes start: each would load it by itself, and anew every epoch.
    """
    with compiling():
        from librosa import resample, stft
        from librosa.filters import mel

    return Librosa(stft, resample, mel)


@dataclass(frozen=True)
class LogSpectrogram:
    """Log-magnitude spectrogram of a fixed length of sound, (1, bins, 1 + samples // hop) float32.

    The sound is resampled by librosa, repeated until it fills `seconds` (clips of one second or more: three times, as
    the public code does), cut there and clipped to [-1, 1]; the result is log(|STFT| + 1e-7), Hann window, centred.
    With `mels` the magnitudes are first gathered into that many mel bands.

    sample_rate in Hz, seconds in s, n_fft (also the window length) and hop in samples.
    """

    sample_rate: int
    seconds: float
    n_fft: int
    hop: int
    mels: int | None = None

    @property
    def samples(self) -> int:
        """The length of the sound that a spectrogram is made of, in samples."""
        return round(self.sample_rate * self.seconds)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The spectrogram's: one channel, bins, frames."""
        return 1, self.mels or self.n_fft // 2 + 1, 1 + self.samples // self.hop

    @cached_property
    def bands(self) -> np.ndarray:
        """(mels, 1 + n_fft // 2) mel filterbank."""
        return librosa().mel(sr=self.sample_rate, n_fft=self.n_fft, n_mels=self.mels)

    def __call__(self, path: Path | BinaryIO, corrupt: Corrupt = unchanged) -> Tensor:
        return self.of(read_wave(path, self.sample_rate, corrupt))

    def of(self, wave: np.ndarray) -> Tensor:
        """The same of samples (n,) at `sample_rate`."""
        wave = np.tile(wave, math.ceil(self.samples / len(wave)))[: self.samples]
        wave = np.clip(wave, -1.0, 1.0)
        magnitude = np.abs(librosa().stft(wave, n_fft=self.n_fft, hop_length=self.hop))
        if self.mels:
            magnitude = self.bands @ magnitude
        return torch.from_numpy(np.log(magnitude + 1e-7).astype(np.float32)).unsqueeze(0)


@dataclass(frozen=True)
class Filterbank:
    """Kaldi's log-mel filterbank, normalised: (1, frames, bands) float32.

    The mean of the sound is taken off it; Hann windows of 25 ms every 10 ms, no dither; zeros after the end, or what
    is beyond `frames` cut off; then (x - mean) / (2 deviation). Source of it all, the two constants included:
    `process_audio.py` in the public code of OGM-GE for Kinetics-Sounds, which InfoReg's reads.

    sample_rate in Hz; 1024 frames are 10.25 s.
    """

    sample_rate: int = 16000
    frames: int = 1024
    bands: int = 128
    mean: float = -4.503877
    deviation: float = 5.141276

    @property
    def shape(self) -> tuple[int, int, int]:
        """The filterbank's: one channel, frames, bands."""
        return 1, self.frames, self.bands

    def __call__(self, path: Path | BinaryIO, corrupt: Corrupt = unchanged) -> Tensor:
        wave = torch.from_numpy(read_wave(path, self.sample_rate, corrupt))
        if len(wave) < self.sample_rate * 25 // 1000:
            raise RuntimeError("shorter than a window of 25 ms")
        features = fbank(
            (wave - wave.mean()).unsqueeze(0), sample_frequency=self.sample_rate, num_mel_bins=self.bands,
            window_type="hanning", frame_shift=10.0, dither=0.0, use_energy=False, htk_compat=True,
        )[: self.frames]  # fmt: skip
        # The padding is normalised with the rest, as in the public code.
        features = torch.nn.functional.pad(features, (0, 0, 0, self.frames - len(features)))
        return ((features - self.mean) / (2 * self.deviation)).unsqueeze(0)


def read_wave(path: Path | BinaryIO, sample_rate: int, corrupt: Corrupt = unchanged) -> np.ndarray:
    """Mono float32 wave at `sample_rate`; full scale is 1. `corrupt` is applied last.

    Samples of a floating-point file, and what the resampler overshoots, may exceed 1.

    Raises:
        RuntimeError: as `read_samples`.
    """
    wave, rate = read_samples(path)
    wave = wave if rate == sample_rate else librosa().resample(wave, orig_sr=rate, target_sr=sample_rate)
    return corrupt(wave)


def read_samples(path: Path | BinaryIO, first: int = 0, count: int | None = None) -> tuple[np.ndarray, int]:
    """`count` samples from `first` on, without a count all of them, mono float32, and their rate in Hz.

    Raises:
        RuntimeError: if the file is no sound, is damaged, cut off or too long, or not in the scale of 1.
    """
    import soundfile  # here, since decoded clips do without

    if cut := truncation(path):
        raise RuntimeError(cut)
    with soundfile.SoundFile(path) as file:
        # The number of frames, since formats that cannot be rewound (GSM) are not read to the end without it.
        count = file.frames if count is None else count
        if count * file.channels > MOST_SAMPLES:
            raise RuntimeError(f"its header claims {count} samples of {file.channels} channels")
        try:
            if first:
                file.seek(first)
            wave, rate = file.read(count, dtype="float32", always_2d=True), file.samplerate
        except (ValueError, TypeError, AssertionError) as error:
            raise RuntimeError(f"libsndfile does not read {file.format} {file.subtype}: {error}") from error
        # libsndfile estimates the length of an MP3 without a Xing header by its first bit rate.
        if len(wave) < count * (0.95 if file.format == "MP3" else 1):
            raise RuntimeError(f"truncated: {len(wave)} of {count} samples from {first} on")
    if not len(wave):
        raise RuntimeError("it has no samples")
    check_scale(wave)
    return wave.mean(axis=1), rate


def check_scale(wave: np.ndarray) -> None:
    """Raises RuntimeError for samples that are no finite numbers, or far beyond full scale.

    Numbers in the scale of integers, +-32767 for 16 bits say, in a floating-point file would be cut to a square wave.
    """
    peak = float(np.abs(wave).max())
    if not math.isfinite(peak):
        raise RuntimeError("samples are NaN or infinite")
    if peak > LOUDEST:
        raise RuntimeError(
            f"its samples reach {peak:.6g} where 1 is full scale: divide them by the scale they are in, "
            "32768 for 16 bits, and write it again"
        )


def wave_fault(path: Path) -> str | None:
    """The fault that makes a sound file unusable, judged by its header and size alone; None if there is none."""
    import soundfile  # here, since decoded clips do without

    if not os.path.isfile(path):  # False, and no error, for a name that is too long
        return "missing"
    if path.stat().st_size == 0:
        return "empty"
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError:
        return "not a sound file" if os.access(path, os.R_OK) else "no permission to read"
    if truncation(path):
        return "truncated"
    return None if info.frames > 0 else "without samples"
