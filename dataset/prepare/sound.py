"""Sound: that of a video, laid out by its time stamps and written as WAV; raw sound files, looked at as a whole."""

import io
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile

from dataset.prepare.clips import ClipError, check_source
from dataset.recipes.truncated import UNKNOWN_SIZE, truncation

GAP = 0.05  # s by which a time stamp may be late before silence is put in; less is the jitter of recorders
BACK = 0.5  # s by which a time stamp may lie before the last one
BLOCK = 1 << 16  # samples that are read at a time


class Track:
    """Sound that comes frame by frame, as mono int16 at `rate` (Hz): sample 0 lies at time 0, gaps are silence.

    The format of the frames may change on the way.
    """

    def __init__(self, rate: int):
        self.rate = rate
        self.end = 0.0  # s, when the last frame ends
        self.last: float | None = None  # s, when it began
        self.parts: list[np.ndarray] = []
        self.length = 0  # samples in `parts`
        self.skipped = 0  # samples that lie before time 0
        self.form: tuple | None = None
        self.resampler: av.AudioResampler | None = None

    def add(self, frame: av.AudioFrame, time: float | None) -> None:
        """Append a frame, which begins at `time` in s, or where the last one ends if that is None.

        Raises ClipError if the time stamps go back.
        """
        time = self.end if time is None else time
        if self.last is not None and time < self.last - BACK:
            raise ClipError(f"the time stamps of its sound go back by {self.last - time:.2f} s at {self.last:.2f} s")
        form = frame.format.name, frame.layout.name, frame.sample_rate
        late = self.last is None or time > self.end + GAP
        if late or form != self.form:
            self.flush()
            self.form = form
            self.resampler = av.AudioResampler(format="s16", layout="mono", rate=self.rate)
        if late:
            begin = round(time * self.rate)
            self.skipped = max(self.skipped, -begin)
            self._append(np.zeros(max(begin + self.skipped - self.length, 0), np.int16))
            self.end = time
        self.last = time
        self.end += frame.samples / frame.sample_rate
        self._append(*(part.to_ndarray()[0] for part in self.resampler.resample(frame)))

    def flush(self) -> None:
        """Append what the resampler still holds."""
        if self.resampler:
            self._append(*(part.to_ndarray()[0] for part in self.resampler.resample(None)))
            self.resampler = None

    def samples(self) -> np.ndarray:
        """(samples,) int16 from time 0 on."""
        return np.concatenate([np.zeros(0, np.int16), *self.parts])[self.skipped :]

    def _append(self, *parts: np.ndarray) -> None:
        self.parts += parts
        self.length += sum(map(len, parts))


def write_wave(path: Path, sound: np.ndarray, sample_rate: int) -> None:
    """Write mono int16 as 16-bit WAV, whatever the name's suffix."""
    path.write_bytes(wave_bytes(sound, sample_rate))


def wave_bytes(sound: np.ndarray, sample_rate: int) -> bytes:
    """Mono int16 as a 16-bit WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, sample_rate, "PCM_16", format="WAV")
    return buffer.getvalue()


def check_sound(path: Path) -> bytes | None:
    """Read a sound file to its end; None, or what it should hold if its writer has left its length at 0.

    Raises ClipError if it does not decode, holds no sound or is truncated.
    """
    check_source(path)
    try:
        announced, read = count_samples(path)
        mended = with_sizes(path.read_bytes()) if announced == 0 else None
        if mended:
            announced, read = count_samples(io.BytesIO(mended))
    except (RuntimeError, ValueError) as error:
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
        raise ClipError(f"{path.name} does not decode: {reason}") from error
    if read == 0:
        raise ClipError(f"{path.name} holds no sound")
    if cut := truncation(path):
        raise ClipError(f"{path.name} is {cut}")
    if read < announced < UNKNOWN_SIZE:
        raise ClipError(f"{path.name} is truncated: {read} of {announced} samples")
    return mended


def count_samples(file: Path | BinaryIO) -> tuple[int, int]:
    """How many samples a channel the header of a sound file announces, and how many can be read."""
    read = 0
    with soundfile.SoundFile(file) as sound:
        while count := len(sound.read(BLOCK, dtype="float32", always_2d=True)):
            read += count
        return sound.frames, read


def with_sizes(data: bytes) -> bytes | None:
    """A WAV file whose sizes were left at 0, with those of what it holds; None for any other file."""
    begin = data.find(b"data\0\0\0\0", 12) + 8
    if data[:4] != b"RIFF" or begin < 8 or begin == len(data):
        return None
    sizes = ((len(data) - length).to_bytes(4, "little") for length in (8, begin))
    return b"RIFF" + next(sizes) + data[8 : begin - 4] + next(sizes) + data[begin:]
