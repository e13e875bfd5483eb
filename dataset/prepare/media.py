"""One reader of raw videos for all recipes: pictures at given times and sound at a given rate, by PyAV.

PyAV carries its own FFmpeg libraries, so no ffmpeg program is needed.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.stream import Disposition, Stream

from dataset.prepare.clips import Clip, ClipError, check_source, write_frames
from dataset.prepare.sound import Track, write_wave

CLOCK = 1e-3  # s, the resolution of the containers' time stamps
TOLERANCE = 0.5  # s by which what decodes may end before the header says; more means a truncated file
HOLE = 10.0  # s in which no stream has anything, at most; more means that the time stamps jump


def shown_at(times: np.ndarray, instants: Iterable[float]) -> np.ndarray:
    """Index of the frame on the screen at each instant: the last one whose time stamp is at most that (all in s)."""
    # Containers such as FLV round times to milliseconds: frame 20 of 30 fps is stamped 0.667 s, not 2/3 s.
    return np.maximum(np.searchsorted(times, np.asarray(instants) + CLOCK, side="right") - 1, 0)


class Media(AbstractContextManager):
    """A video file, decoded once: `frames` or `shown` give its pictures in order and gather its sound on the way.

    Pictures and sound lie where their time stamps say; time 0 is where the first of the streams read begins. Where one
    stream has a hole, the last picture stays and the sound is silent. Of several streams of a kind the one is read that
    the file marks as the default, else the first.

    sample_rate: of the sound in Hz; None reads pictures alone. tolerance: s, see TOLERANCE.
    Raises ClipError, at any point, for a file that lacks a stream, is damaged, ends before its time, or whose time
    stamps go back or jump. (MPEG program streams, .mpg, do not say how long they are: one that is cut off between two
    pictures passes.)
    """

    def __init__(self, path: Path, sample_rate: int | None = None, tolerance: float = TOLERANCE):
        check_source(path)
        self.path, self.tolerance = path, tolerance
        self.times: list[float] = []
        self.notes: list[tuple[int, str, str]] = []  # what FFmpeg noted as an error before it read on: level, who, what
        with self.decoding():
            # Titles and the like are not always UTF-8, and nobody reads them here.
            self.container = av.open(str(path), metadata_errors="ignore")
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
        self.video = default_of(videos)
        self.streams = [self.video, *([default_of(sounds)] if sample_rate else [])]
        self.video.codec_context.thread_count = 1  # one process per clip already fills the machine
        self.avi = self.container.format.name == "avi"
        self.rate = self.video.average_rate or Fraction(25)
        self.origin = min(float((s.start_time or 0) * s.time_base) for s in self.streams)
        self.track = Track(sample_rate) if sample_rate else None
        self.covered: float | None = None  # s, until when there are packets of sound or pictures
        self.held = 0.0  # s that the last picture stays by its own duration
        self.first: int | None = None
        self.damage: str | None = None
        self.packets: Counter[int] = Counter()  # read, by the number of the stream

    def __exit__(self, *_) -> None:
        self.container.close()

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Whatever a decoder raises becomes a ClipError that names the file; what FFmpeg notes goes to `notes`."""
        level = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
        capture = av.logging.Capture()
        try:
            with capture:
                yield
        except (ClipError, GeneratorExit):
            raise
        except Exception as error:
            reason = error.strerror if isinstance(error, av.FFmpegError) else f"{type(error).__name__}: {error}"
            raise ClipError(
                f"{self.path.name} does not decode ({reason}): damaged, truncated or not a video"
            ) from error
        finally:
            av.logging.set_level(level)
            self.notes += capture.logs

    def frames(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(time in s, picture) of every frame, in order; afterwards `end` and `sound` are known."""
        numbers = {stream.index for stream in self.streams}
        with self.decoding():
            for packet in self._packets():
                self._cover(packet)
                self.packets[packet.stream.index] += packet.size > 0
                if packet.stream.index not in numbers:
                    continue
                for frame in packet.decode():
                    if isinstance(frame, av.AudioFrame):
                        self._hear(frame)
                    else:
                        yield self._see(frame), frame
            if self.track:
                self.track.flush()
        self._check_whole()

    def shown(self, fps: int, begin: float = 0.0, end: float = math.inf) -> Iterator[np.ndarray]:
        """BGR pictures (height, width, 3) uint8 on the screen at begin, begin + 1/fps, ... s, while before the end.

        The end is `end` or that of the video, if that comes first; at `begin` there is a picture whatever the end. On
        the screen is the last frame whose time stamp is at most that time plus `CLOCK`, as in `shown_at`, but without
        holding more than one frame.
        """
        number, last = 0, None
        for time, frame in self.frames():
            while last is not None and (now := begin + number / fps) + CLOCK < time and now < end - CLOCK:
                yield picture(last)
                number += 1
            last = frame
        while number == 0 or begin + number / fps < min(end, self.end) - CLOCK:
            yield picture(last)
            number += 1

    @property
    def end(self) -> float:
        """When the last frame leaves the screen, in s.

        That is after the mean distance of two frames (1/rate if there is one), or after its own duration if that is
        longer.
        """
        times = self.times
        mean = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else float(1 / self.rate)
        # A duration that is a clock's tick longer is the mean distance, as the container rounds it.
        return times[-1] + (self.held if self.held > mean + CLOCK else mean)

    def sound(self) -> np.ndarray:
        """Mono int16 at the sample rate; sample 0 lies at time 0."""
        return self.track.samples()

    def _packets(self) -> Iterator[av.Packet]:
        """The packets of all streams, to the end of the file."""
        whole = False
        while not whole:
            try:
                for packet in self.container.demux():
                    whole = whole or packet.size == 0  # what has the decoders give their last frames
                    yield packet
                whole = True
            except IndexError:  # PyAV's, of a stream that appeared on the way and is none of ours
                continue

    def _cover(self, packet: av.Packet) -> None:
        """Note until when there is sound or a picture. Raises ClipError for a packet that lies long after that."""
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or packet.stream.type not in ("audio", "video"):
            return
        begin = float(stamp * packet.time_base)
        if self.covered is not None and begin > self.covered + HOLE:
            raise ClipError(
                f"the time stamps of {self.path.name} jump by {begin - self.covered:.1f} s "
                f"at {self.covered - self.origin:.2f} s"
            )
        # A picture may stay for minutes while the sound goes on; by itself it covers no more than a hole may be long.
        end = begin + min(float((packet.duration or 0) * packet.time_base), HOLE)
        self.covered = end if self.covered is None else max(self.covered, end)

    def _see(self, frame: av.VideoFrame) -> float:
        """Note a picture; when it appears, in s."""
        time = self._time(frame)
        if time is None or self.times and time < self.times[-1]:
            raise ClipError(f"{self.path.name} has no usable time stamps")
        self.times.append(time)
        self.held = float((frame.duration or 0) * frame.time_base)
        if frame.is_corrupt:
            self.damage = self.damage or f"a picture at {time:.2f} s"
        return time

    def _hear(self, frame: av.AudioFrame) -> None:
        known = frame.time is not None and not (self.avi and self.track.parts)  # AVI's are not stored but computed
        time = frame.time - self.origin if known else None
        if frame.is_corrupt:
            self.damage = self.damage or f"the sound at {self.track.end if time is None else time:.2f} s"
        self.track.add(frame, time)

    def _time(self, frame: av.VideoFrame) -> float | None:
        """When the frame appears, in s, or None if the file does not say."""
        if not self.avi:
            return None if frame.time is None else frame.time - self.origin
        # AVI numbers its packets in the order of decoding, not of showing; what counts is how far apart they lie.
        if frame.dts is None:  # of the decoder's last frames
            return self.times[-1] + float(1 / self.rate) if self.times else 0.0
        if self.first is None:
            self.first = frame.dts - len(self.times)
        return max(float((frame.dts - self.first) * frame.time_base), *self.times[-1:], 0.0)

    def _check_whole(self) -> None:
        """Raise ClipError if the file held less than it says, or something was damaged."""
        name = self.path.name
        if not self.times or (self.track and not self.track.parts):
            raise ClipError(f"{name} is truncated: it holds no {'sound' if self.times else 'frames'}")
        if len(self.times) > 1 and self.times[-1] == self.times[0]:
            raise ClipError(f"{name} has no usable time stamps")
        if self.held > HOLE and self.end > self.covered - self.origin + CLOCK:
            raise ClipError(f"the last picture of {name} stays for {self.held:.1f} s, in which there is no sound")
        declared = max(self._declared(stream) for stream in self.streams)
        reached = self.origin + max(self.end, self.track.end if self.track else 0)
        if all(self._own_duration(stream) is None for stream in self.streams):  # then it is that of the longest stream
            reached = max(reached, self.covered)
        if declared - reached > self.tolerance:  # decoders take a truncated file for a shorter one
            raise ClipError(
                f"{name} is truncated: it ends at {reached - self.origin:.2f} s of {declared - self.origin:.2f} s"
            )
        if damage := self.damage or self._lost():
            raise ClipError(f"{name} is damaged or truncated ({damage})")

    def _lost(self) -> str | None:
        """What says that packets are missing, or None: the container's reader, or AVI's index, which has them all."""
        if noted := [message for _, source, message in self.notes if source == self.container.format.name]:
            return f"its container: {noted[0].strip()}"
        for stream in self.streams if self.avi else ():
            listed, read = sum(entry.size > 0 for entry in stream.index_entries), self.packets[stream.index]
            if read < listed:
                return f"{listed - read} of {listed} packets of its {stream.type} are missing"
        return None

    def _declared(self, stream: Stream) -> float:
        """When the stream ends by the header, in s of the file's clock; 0 if it does not say."""
        own = self._own_duration(stream)
        declared = (self.container.duration or 0) / av.time_base if own is None else own
        if self.avi:  # whose duration FFmpeg computes from what is left, if the index is not
            declared = max(declared, float(self.video.frames / self.rate))
        return declared

    def _own_duration(self, stream: Stream) -> float | None:
        """The end of this very stream, as `_declared` gives it; None if the header tells the file's only."""
        if match := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):  # Matroska's
            return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        if stream.duration is None:
            return None
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)


def default_of(streams: Sequence[Stream]) -> Stream:
    """The first stream that the file marks as the default, or the first."""
    return next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])


def picture(frame: av.VideoFrame) -> np.ndarray:
    """BGR (height, width, 3) uint8, upright: telephones store the turn beside the picture."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90))


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """The image with `size` pixels on its shorter side; as it is if that would enlarge it, or if `size` is 0."""
    scale = size / min(image.shape[:2])
    if not 0 < scale < 1:
        return image
    return cv2.resize(image, [round(side * scale) for side in image.shape[1::-1]], interpolation=cv2.INTER_AREA)


def prepare_clip(clip: Clip, wave: Path, folder: Path, fps: int, sample_rate: int, size: int) -> None:
    """The whole video as sound and frames: the `Recipe` of sets whose clips are whole files."""
    with Media(clip.sources[0], sample_rate) as media:
        write_frames(folder, (shrink(image, size) for image in media.shown(fps)))
        write_wave(wave, media.sound(), sample_rate)
