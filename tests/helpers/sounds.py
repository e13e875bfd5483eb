"""A generated sound, and the public code's recipe of sounds, written out."""

import librosa
import numpy as np


def spectrogram(wave):
    """The public code's recipe, written out: three seconds at 22050 Hz, clipped, log-magnitude."""
    wave = np.clip(wave, -1, 1)
    return np.log(np.abs(librosa.stft(wave, n_fft=512, hop_length=353)) + 1e-7)[None]


def wave_of(seconds=1.0, rate=22050, size=0.1):
    return (size * np.random.default_rng(3).standard_normal(round(seconds * rate))).astype(np.float32)
