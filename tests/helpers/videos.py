"""Small real videos for the tests: coloured pictures and a tone at known moments, in the containers people have."""

import io

import av
import cv2
import numpy as np

BLUE, GREEN, RED = (255, 0, 0), (0, 255, 0), (0, 0, 255)  # BGR
FPS = 25
CODECS = {
    "mp4": ("libx264", "aac"),
    "mpg": ("mpeg1video", "mp2"),
    "avi": ("mpeg4", "libmp3lame"),
    "flv": ("flv", "libmp3lame"),
    "mkv": ("libx264", "aac"),
}


def colours(length=2.88, changes=(0.8, 1.72)):
    """A colour for each frame: blue, green from the first change on, red from the second (in s)."""
    moments = np.arange(round(length * FPS)) / FPS
    return [(BLUE, GREEN, RED)[sum(moment >= change - 1e-6 for change in changes)] for moment in moments]


def tone(pitch=1000, begin=1.0, end=2.0, length=2.88, rate=44100):
    """(samples,) int16: a sine of amplitude 12000 between two moments, silence around it."""
    moments = np.arange(round(length * rate)) / rate
    return (12000 * np.sin(2 * np.pi * pitch * moments) * ((moments >= begin) & (moments < end))).astype(np.int16)


def record(path, pictures=None, sound=None, pts=None, size=(64, 48), rate=44100, codecs=None, **options):
    """Encode one frame per colour and a mono sound, stored as stereo; either may be None.

    pts: the frames' times in 1/1000 s, for a variable rate. codecs: (video, audio), by default the suffix's.
    """
    video_codec, audio_codec = codecs or CODECS[path.suffix[1:]]
    with av.open(str(path), "w", options=options) as container:
        video = audio = None
        if pictures is not None:
            video = container.add_stream(video_codec, rate=FPS if pts is None else 1000)
            video.width, video.height, video.pix_fmt, video.bit_rate = *size, "yuv420p", 1_000_000
        if sound is not None:
            audio = container.add_stream(audio_codec, rate=rate, layout="stereo")
        for number, colour in enumerate(pictures or []):
            frame = av.VideoFrame.from_ndarray(np.full((*size[::-1], 3), colour, np.uint8), format="bgr24")
            frame.pts = number if pts is None else pts[number]
            container.mux(video.encode(frame))
        if video:
            container.mux(video.encode(None))
        if audio:
            whole = av.AudioFrame.from_ndarray(np.repeat(sound, 2)[None], format="s16", layout="stereo")
            whole.sample_rate, whole.pts = rate, 0
            context = audio.codec_context
            parts = av.AudioResampler(context.format.name, "stereo", rate, frame_size=context.frame_size or 1024)
            for part in [*parts.resample(whole), *parts.resample(None)]:
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))


def record_cover(path):
    """A sound file with a cover: its video stream is a picture beside the sound, no picture of the clip."""
    _, jpg = cv2.imencode(".jpg", np.full((48, 64, 3), RED, np.uint8))
    with av.open(io.BytesIO(jpg.tobytes())) as source, av.open(str(path), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=44100, layout="stereo")
        cover = container.add_stream_from_template(source.streams.video[0])
        cover.disposition = av.stream.Disposition.attached_pic
        packet = next(source.demux(video=0))
        packet.stream, packet.pts, packet.dts = cover, 0, 0
        container.start_encoding()
        container.mux(packet)
        whole = av.AudioFrame.from_ndarray(np.repeat(tone(), 2)[None], format="s16", layout="stereo")
        whole.sample_rate, whole.pts = 44100, 0
        for part in av.AudioResampler("fltp", "stereo", 44100, frame_size=1024).resample(whole):
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))


def turn(path):
    """Write a quarter turn into an mp4's track header, as a telephone that is held upright does."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # after version, flags and the fields of version 0 stands the matrix
    one, two = (1 << 16).to_bytes(4, "big"), (1 << 30).to_bytes(4, "big")
    minus = ((1 << 32) - (1 << 16)).to_bytes(4, "big")
    zero = bytes(4)
    data[start : start + 36] = b"".join([zero, one, zero, minus, zero, zero, zero, zero, two])
    path.write_bytes(data)


# Layouts


def touch(raw, *paths):
    for path in paths:
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / path).write_bytes(b"x")
    return raw
