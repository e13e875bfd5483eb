"""Small videos whose packets a test may drop, move and lengthen before they are written."""

import av
import numpy as np

RATE = 44100
CODECS = {
    "mkv": ("mpeg4", "aac"),
    "mp4": ("mpeg4", "aac"),
    "ts": ("libx264", "aac"),
    "mpg": ("mpeg1video", "mp2"),
    "flv": ("flv", "libmp3lame"),
    "avi": ("mpeg4", "libmp3lame"),
}


def seconds(packet, stamp=None):
    """When a packet is shown, in s."""
    return float((packet.pts if stamp is None else stamp) * packet.time_base)


def shift(packet, by):
    """Move a packet by so many s."""
    packet.pts += round(by / packet.time_base)
    packet.dts += round(by / packet.time_base)


def pictures_of(stream, images):
    """The packets of (height, width, 3) uint8 BGR pictures, every one decodable by itself."""
    packets = []
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame.pts = number
        packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def sound_of(stream, wave):
    """The packets of mono int16 at the stream's rate."""
    context = stream.codec_context
    frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = context.sample_rate, 0
    parts = av.AudioResampler(context.format.name, "mono", context.sample_rate, frame_size=context.frame_size or 1152)
    found = [*parts.resample(frame), *parts.resample(None)]
    return [packet for part in found for packet in stream.encode(part)] + list(stream.encode(None))


def write(path, images, waves=(), edit=None, fps=25, codecs=None, default=None, rate=RATE):
    """Write pictures and the mono sounds `waves` at `rate`; `edit(pictures, sounds)` changes lists of packets first.

    default: the number of the sound that is marked as the default.
    """
    video, audio = codecs or CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(video, rate=fps)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.bit_rate, stream.gop_size = "yuv420p", 1_000_000, 1
        stream.codec_context.max_b_frames = 0
        tracks = [container.add_stream(audio, rate=rate, layout="mono") for _ in waves]
        for number, track in enumerate(tracks):
            if default is not None:
                track.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        pictures = pictures_of(stream, images)
        sounds = [sound_of(track, wave) for track, wave in zip(tracks, waves, strict=True)]
        if edit:
            edit(pictures, *sounds)
        packets = pictures + [packet for track in sounds for packet in track]
        for packet in sorted(packets, key=lambda packet: seconds(packet, packet.dts)):
            container.mux(packet)


def wave(length, *tones, rate=RATE):
    """(samples,) int16: 1 kHz of amplitude 12000 within each (begin, end) in s, silence around them."""
    moments = np.arange(round(length * rate)) / rate
    on = sum(((moments >= begin) & (moments < end) for begin, end in tones), np.zeros(len(moments), bool))
    return (12000 * np.sin(2 * np.pi * 1000 * moments) * on).astype(np.int16)


def loud(sound, rate=16000):
    """When the first and the last loud sample are, in s."""
    return np.flatnonzero(np.abs(sound.astype(int)) > 3000)[[0, -1]] / rate


def levels(length, fps=25):
    """A grey picture for each moment, whose level is ten times the nearest second."""
    return [np.full((48, 64, 3), 10 * ((number + fps // 2) // fps), np.uint8) for number in range(round(length * fps))]


def seconds_shown(images):
    """The seconds that such pictures tell."""
    return [round(float(image.mean()) / 10) for image in images]
