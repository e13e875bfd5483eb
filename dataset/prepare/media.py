"""One reader of raw videos for all recipes: pictures at given times and sound at a given rate, by PyAV.

PyAV carries its own FFmpeg libraries, so no ffmpeg program is needed.
"""

import argparse
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile
from av.stream import Disposition

from dataset.prepare.clips import Clip, ClipError, check_source, write_frames
from utils.errors import RunError

SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mpg", ".mpeg", ".vob", ".mkv", ".webm", ".flv", ".wmv")
SUFFIXES += (".ts", ".mts", ".m2ts", ".ogv")
CLOCK = 1e-3  # s, the resolution of the containers' time stamps
TOLERANCE = 0.5  # s by which what decodes may end before the header says; more means a truncated file


def shown_at(times: np.ndarray, instants: Iterable[float]) -> np.ndarray:
    """Index of the frame on the screen at each instant: the last one whose time stamp is at most that (all in s)."""
    # Containers such as FLV round times to milliseconds: frame 20 of 30 fps is stamped 0.667 s, not 2/3 s.
    return np.maximum(np.searchsorted(times, np.asarray(instants) + CLOCK, side="right") - 1, 0)


def end_of(times: np.ndarray, fps: float) -> float:
    """When the last frame leaves the screen, in s: after the mean distance of two frames, or 1/fps if there is one."""
    return times[-1] + ((times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / fps)


def only_videos(files: Iterable[Path], folder: Path) -> list[Path]:
    """The files that are videos by their suffix, sorted; says how many of which other types the folder holds."""
    files = [path for path in files if path.is_file()]
    others = Counter(path.suffix.lower() or path.name for path in files if path.suffix.lower() not in SUFFIXES)
    if others:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(others.items()))
        print(f"{folder}: {others.total()} files of other types passed over: {counts}")
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


class Media(AbstractContextManager):
    """A video file, decoded once: `frames` or `shown` give its pictures in order and gather its sound on the way.

    Time 0 is where the first of the streams read begins. sample_rate: of the sound in Hz; None reads pictures alone.
    Raises ClipError, at any point, for a file that lacks a stream, does not decode or ends before its time. (MPEG
    program streams, .mpg, do not say how long they are: what is left of a truncated one passes.)
    """

    def __init__(self, path: Path, sample_rate: int | None = None):
        check_source(path)
        self.path, self.sample_rate = path, sample_rate
        self.times: list[float] = []
        self.chunks: list[np.ndarray] = []
        try:
            # Titles and the like are not always UTF-8, and nobody reads them here.
            self.container = av.open(str(path), metadata_errors="ignore")
        except av.FFmpegError as error:
            raise self.fault(error) from error
        known = [s for s in self.container.streams if s.codec_context]  # of a codec that FFmpeg can read
        # A cover picture in a sound file is a video stream too.
        videos = [s for s in known if s.type == "video" and not s.disposition & Disposition.attached_pic]
        sounds = [s for s in known if s.type == "audio"]
        lacking = [] if videos else ["pictures"]
        if sample_rate and not sounds:
            lacking.append("sound")
        if lacking:
            self.container.close()
            raise ClipError(f"{path.name} holds no {' and no '.join(lacking)}")
        self.streams = [videos[0], *(sounds[:1] if sample_rate else [])]
        self.streams[0].codec_context.thread_count = 1  # one process per clip already fills the machine
        self.avi = self.container.format.name == "avi"
        self.rate = float(self.streams[0].average_rate or 25)
        self.origin = min(float((s.start_time or 0) * s.time_base) for s in self.streams)
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate) if sample_rate else None
        self.sound_begins = 0.0
        self.first: int | None = None

    def __exit__(self, *_) -> None:
        self.container.close()

    def fault(self, error: Exception) -> ClipError:
        reason = getattr(error, "strerror", None) or error
        return ClipError(f"{self.path.name} does not decode ({reason}): damaged, truncated or not a video")

    def frames(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(time in s, picture) of every frame, in order; afterwards `end` and `sound` are known."""
        try:
            for frame in self.container.decode(*self.streams):
                if isinstance(frame, av.AudioFrame):
                    self._hear(frame)
                    continue
                time = self._time(frame)
                if time is None or self.times and time < self.times[-1]:
                    raise ClipError(f"{self.path.name} has no usable time stamps")
                self.times.append(time)
                yield time, frame
            if self.chunks:
                self.chunks += [part.to_ndarray()[0] for part in self.resampler.resample(None)]
        except (av.FFmpegError, ValueError) as error:  # ValueError: the sound changes its format on the way
            raise self.fault(error) from error
        if not self.times or (self.sample_rate and not self.chunks):
            raise ClipError(f"{self.path.name} is truncated: it holds no {'sound' if self.times else 'frames'}")
        if len(self.times) > 1 and self.times[-1] == self.times[0]:
            raise ClipError(f"{self.path.name} has no usable time stamps")
        heard = self.sound_begins + sum(map(len, self.chunks)) / self.sample_rate if self.sample_rate else 0
        declared = (self.container.duration or 0) / av.time_base
        if self.avi:  # whose duration FFmpeg computes from what is left, if the index is not
            declared = max(declared, self.streams[0].frames / self.rate)
        if declared - (reached := max(self.end, heard)) > TOLERANCE:  # decoders take a truncated file for a shorter one
            raise ClipError(f"{self.path.name} is truncated: it ends at {reached:.2f} s of {declared:.2f} s")

    def _time(self, frame: av.VideoFrame) -> float | None:
        """When the frame appears, in s, or None if the file does not say."""
        if not self.avi:
            return None if frame.time is None else frame.time - self.origin
        # AVI numbers its packets in the order of decoding, not of showing; what counts is how far apart they lie.
        if frame.dts is None:  # of the decoder's last frames
            return self.times[-1] + 1 / self.rate if self.times else 0.0
        if self.first is None:
            self.first = frame.dts - len(self.times)
        return float((frame.dts - self.first) * frame.time_base)

    def _hear(self, frame: av.AudioFrame) -> None:
        if not self.chunks:
            self.sound_begins = frame.time - self.origin if frame.time is not None else 0.0
        self.chunks += [part.to_ndarray()[0] for part in self.resampler.resample(frame)]

    def shown(self, fps: int) -> Iterator[np.ndarray]:
        """BGR pictures (height, width, 3) uint8 on the screen at 0, 1/fps, 2/fps, ... s, while that is before the end.

        On the screen is the last frame whose time stamp is at most that time plus `CLOCK`, as in `shown_at`, but
        without holding more than one frame.
        """
        number, last = 0, None
        for time, frame in self.frames():
            while last is not None and number / fps + CLOCK < time:
                yield picture(last)
                number += 1
            last = frame
        while number == 0 or number / fps < self.end - CLOCK:
            yield picture(last)
            number += 1

    @property
    def end(self) -> float:
        """When the last frame leaves the screen, in s."""
        return end_of(np.array(self.times), self.rate)

    def sound(self) -> np.ndarray:
        """Mono int16 at the sample rate; sample 0 lies at time 0."""
        offset = round(self.sound_begins * self.sample_rate)
        return np.concatenate([np.zeros(max(offset, 0), np.int16), *self.chunks])[max(-offset, 0) :]


def picture(frame: av.VideoFrame) -> np.ndarray:
    """BGR (height, width, 3) uint8, upright: telephones store the turn beside the picture."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90))


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """The image with `size` pixels on its shorter side; as it is if that would enlarge it, or if `size` is 0."""
    scale = size / min(image.shape[:2])
    if not 0 < scale < 1:
        return image
    return cv2.resize(image, [round(side * scale) for side in image.shape[1::-1]], interpolation=cv2.INTER_AREA)


def write_wave(path: Path, sound: np.ndarray, sample_rate: int) -> None:
    """Write mono int16 as 16-bit WAV, whatever the name's suffix."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, sample_rate, "PCM_16", format="WAV")
    path.write_bytes(buffer.getvalue())


def prepare_clip(clip: Clip, wave: Path, folder: Path, fps: int, sample_rate: int, size: int) -> None:
    """The whole video as sound and frames: the `Recipe` of sets whose clips are whole files."""
    with Media(clip.sources[0], sample_rate) as media:
        write_frames(folder, (shrink(image, size) for image in media.shown(fps)))
        write_wave(wave, media.sound(), sample_rate)


def add_media_args(parser: argparse.ArgumentParser, size: int = 0) -> None:
    """The flags of `prepare_clip`; `size` is the default of --size."""
    parser.add_argument("--sample_rate", type=int, default=16_000, help="of the sound, in Hz")
    parser.add_argument(
        "--size", type=int, default=size, help="most pixels of the frames' shorter side; 0: as they are"
    )


def media_recipe(args: argparse.Namespace) -> dict[str, int]:
    """What those flags say, for `prepare_clip`. Raises RunError for one out of range."""
    recipe = {"sample_rate": args.sample_rate, "size": args.size}
    for name, least in {"sample_rate": 1000, "size": 0}.items():
        if recipe[name] < least:
            raise RunError(f"--{name} {recipe[name]}: must be at least {least}")
    return recipe
