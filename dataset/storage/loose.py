"""Clips that belong to no data set: raw videos, sounds with their folders of frames, or whole folders of these."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.prepare.videos import SUFFIXES
from dataset.recipes.audio import wave_fault
from dataset.recipes.corrupt import Noise
from dataset.recipes.frames import list_frames
from dataset.storage.source import Encoded, Recipe
from utils.errors import DataError

FORMS = "a video, a .wav beside a folder of frames of its name, such a folder of .jpg, or a folder of these"
SAMPLE_RATE = 16_000  # Hz; data/prepare_videos.py's, for checkpoints that do not say how their clips were prepared


@dataclass(frozen=True)
class Loose:
    """A clip and where it lies: a raw `video`, or the file of its sound and the folder of its frames."""

    name: str
    video: Path | None = None
    wave: Path | None = None
    frames: Path | None = None


def find_clips(paths: Iterable[str | Path], fps: int) -> list[Loose]:
    """The clips that the paths name, in their order, those of a folder sorted by name.

    A folder may have the layout of dataset/clips.py, of which the frames at `fps` are read.

    Raises:
        DataError: for a path that is not there or is none of FORMS.
    """
    return [clip for path in map(Path, paths) for clip in clips_at(path, fps)]


def clips_at(path: Path, fps: int) -> list[Loose]:
    """The clips that one path names."""
    if not path.exists():
        raise DataError(f"{path} does not exist: name {FORMS}")
    if not path.is_dir():
        return [clip_of_file(path, fps)]
    pictures = path / f"Image-{fps:02d}-FPS"
    if (path / "AudioWAV").is_dir() or pictures.is_dir():
        return prepared_clips(path, pictures)
    if list_frames(path):
        return [Loose(str(path), wave=path.with_name(f"{path.name}.wav"), frames=path)]
    inside = sorted(entry for entry in path.iterdir() if entry.name[0] != ".")
    waves = {entry.stem for entry in inside if is_wave(entry)}
    clips = [clip_of_file(entry, fps) for entry in inside if is_wave(entry) or entry.suffix.lower() in SUFFIXES]
    pictures = [entry for entry in inside if entry.is_dir() and entry.name not in waves and list_frames(entry)]
    clips += [clip for entry in pictures for clip in clips_at(entry, fps)]
    if not clips:
        inner = next((f" itself, and its folders are not searched: name {e}, say" for e in inside if e.is_dir()), "")
        raise DataError(f"{path} holds no clip{inner or f': name {FORMS}'}")
    return sorted(clips, key=lambda clip: clip.name)


def is_wave(path: Path) -> bool:
    """Whether a file is a sound, by its suffix."""
    return path.suffix.lower() == ".wav"


def clip_of_file(path: Path, fps: int) -> Loose:
    """The clip of a video or of a .wav, whose frames lie beside it or as in a data set."""
    if path.suffix.lower() in SUFFIXES:
        return Loose(str(path), video=path)
    if not is_wave(path):
        raise DataError(f"{path} is no clip: name {FORMS}")
    beside, apart = path.with_suffix(""), path.parent.with_name(f"Image-{fps:02d}-FPS") / path.stem
    return Loose(str(path), wave=path, frames=apart if apart.is_dir() and not beside.is_dir() else beside)


def prepared_clips(root: Path, pictures: Path) -> list[Loose]:
    """All clips of a folder in the layout of a data set, with the names that they have there."""
    waves = {path.stem: path for path in sorted(root.glob("AudioWAV/[!.]*")) if is_wave(path)}
    names = sorted({*waves, *(path.name for path in pictures.glob("[!.]*") if path.is_dir())})
    sounds = {name: waves.get(name, root / "AudioWAV" / f"{name}.wav") for name in names}
    return [Loose(name, wave=sounds[name], frames=pictures / name) for name in names]


class LooseFiles(Encoded):
    """Clips wherever they lie. Videos are decoded as data/prepare_videos.py prepares them, but into memory.

    prepared: how the clips of the training split were, {"sample_rate": Hz, "size": pixels}, as a checkpoint has it.

    Raises:
        DataError: for a clip that lacks what the modalities need; of a video, once it is decoded.
    """

    def __init__(
        self,
        args,
        clips: Sequence[Loose],
        prepared: Mapping[str, int],
        modalities: Sequence[str],
        recipe: Recipe,
        noise: Noise,
    ):
        super().__init__([clip.name for clip in clips], recipe, noise)
        self.clips, self.wanted, self.fps = clips, args.frames, args.fps
        self.sound_rate = prepared.get("sample_rate", SAMPLE_RATE) if "audio" in modalities else None
        self.size = prepared.get("size", 0)
        self.visual_read = "visual" in modalities
        self._decoded: tuple[int, bytes, list[bytes]] | None = None  # the last video: its number, sound, frames
        for clip in clips:
            if not clip.video:
                self._check(clip)

    def wave_file(self, clip: int) -> Path | io.BytesIO:
        return io.BytesIO(self._decode(clip)[0]) if self.clips[clip].video else self.clips[clip].wave

    def picture_files(self, clip: int, frames: Sequence[int]) -> list[Path] | list[io.BytesIO]:
        if self.clips[clip].video:
            pictures = self._decode(clip)[1]
            return [io.BytesIO(pictures[frame]) for frame in frames]
        files = list_frames(self.clips[clip].frames)
        return [files[frame] for frame in frames]

    def frame_count(self, clip: int) -> int:
        if not self.clips[clip].video:
            return len(list_frames(self.clips[clip].frames))
        self._check_count(self.names[clip], count := len(self._decode(clip)[1]))
        return count

    def _check(self, clip: Loose) -> None:
        """Raises DataError if files of a clip are missing or unusable."""
        if self.sound_rate and (fault := wave_fault(clip.wave)):
            raise DataError(f"clip {clip.name}: its sound {clip.wave} is {fault}; name {FORMS}")
        if self.visual_read:
            self._check_rate(clip)
            self._check_count(clip.name, len(list_frames(clip.frames)), f" in {clip.frames}")

    def _check_rate(self, clip: Loose) -> None:
        """Raises DataError if a data set has the clip's frames at other rates only."""
        folder = clip.frames.parent
        there = ", ".join(path.name for path in sorted(folder.parent.glob("Image-*-FPS")))
        if there and not folder.is_dir():
            raise DataError(
                f"clip {clip.name}: no frames at {folder}; {folder.parent} has {there}, and the model looks at "
                f"{self.fps} a second: prepare frames at this rate, too"
            )

    def _check_count(self, name: str, count: int, where: str = "") -> None:
        if count < self.wanted:
            raise DataError(
                f"clip {name} has {count} frames{where} at {self.fps} a second, and the model looks at {self.wanted}: "
                "name a longer one"
            )

    def _decode(self, number: int) -> tuple[bytes, list[bytes]]:
        """The sound of a video as a .wav and its frames as .jpg, as far as they are read."""
        from dataset.prepare.clips import ClipError, jpeg  # here, since they load PyAV and OpenCV
        from dataset.prepare.media import Media, shrink
        from dataset.prepare.sound import wave_bytes

        if self._decoded is None or self._decoded[0] != number:
            try:
                with Media(self.clips[number].video, self.sound_rate) as media:
                    shown = [jpeg(shrink(image, self.size)) for image in media.shown(self.fps)]
                    sound = wave_bytes(media.sound(), self.sound_rate) if self.sound_rate else b""
            except ClipError as error:
                raise DataError(f"clip {self.names[number]}: {error}") from error
            self._decoded = number, sound, shown
        return self._decoded[1:]
