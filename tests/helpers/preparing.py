"""Raw videos for the preparation scripts, their runs, and what these write."""

import errno
import json
import os
import signal
import time
from functools import partial

import av
import cv2
import numpy as np

from dataset.prepare.run import run as program

BLUE, GREEN, RED = (255, 0, 0), (0, 255, 0), (0, 0, 255)  # BGR

AUDIO_RATE = 44100

ENCODER_DELAY = 481  # samples that the mp2 encoder puts before the sound


def write_video(path, codec, fps, colours, sound=None, size=(64, 48)):
    """Encode one frame per colour; `sound` is mono int16 at 44.1 kHz, stored as stereo mp2."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.bit_rate = 1_000_000
        audio = container.add_stream("mp2", rate=AUDIO_RATE, layout="stereo") if sound is not None else None
        for number, colour in enumerate(colours):
            frame = av.VideoFrame.from_ndarray(np.full((*size[::-1], 3), colour, np.uint8), format="bgr24")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio:
            # Without the delay's worth of samples, so that sound and video begin at the same moment of the file.
            for start in range(ENCODER_DELAY, len(sound), 1152):
                both = np.repeat(sound[start : start + 1152], 2)[None]
                frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
                frame.sample_rate, frame.pts = AUDIO_RATE, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


def run(main, capfd, **flags):
    """Exit status, stdout and stderr of a script's main with these flags (True: a switch)."""
    flags = {"workers": 1, **flags}
    argv = [word for name, value in flags.items() for word in [f"--{name}", *([] if value is True else [str(value)])]]
    return status_of(partial(main, argv)), *capfd.readouterr()


def status_of(main):
    """Exit status of a script's main, called as the script does."""
    try:
        program(main)
    except SystemExit as end:
        return end.code
    return 0


def rows(path):
    return [tuple(line.split(",")) for line in path.read_text().splitlines()]


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def manifest(out):
    return json.loads((out / "manifest.json").read_text())


def colours(folder):
    """The dominant channel of each frame, in order of the file names."""
    means = [cv2.imread(str(path)).mean(axis=(0, 1)) for path in sorted(folder.iterdir())]
    return ["BGR"[int(mean.argmax())] if mean.max() > 60 else "-" for mean in means]


def deadly_recipe(clip, second, folder):
    """A recipe of which a clip's label says what it does: fails, ends its process, hangs, or finds the disk closed."""
    if clip.label == "killed" or (clip.label == "killed once" and not clip.sources[0].exists()):
        clip.sources[0].touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if clip.label == "raises":
        raise IndexError("list index\nout of range")
    if clip.label == "hangs":
        time.sleep(1000)
    if clip.label == "is refused":
        time.sleep(1)
        raise PermissionError(errno.EACCES, "Permission denied", "clip")
    second.write_bytes(b"sound")
    (folder / "00001.jpg").write_bytes(b"picture")
