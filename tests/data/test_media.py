"""The reader of videos: holes and jumps in time, held pictures, several streams, damage, changes on the way."""

import random
import struct

import av
import numpy as np
import pytest
from helpers import muxing
from helpers.muxing import levels, loud, seconds, seconds_shown, shift, wave

from dataset.prepare.clips import Clip, ClipError
from dataset.prepare.media import HOLE, Media, prepare_clip
from dataset.prepare.sound import Track


def read(path, fps=1, rate=16000):
    """The pictures and the sound of a video."""
    with Media(path, rate) as media:
        images = list(media.shown(fps))
        return images, media.sound() if rate else None


def drop(begin, end, which):
    """Lose the packets of one stream between two moments."""

    def edit(*streams):
        packets = streams[which]
        packets[:] = [packet for packet in packets if not begin <= seconds(packet) < end]

    return edit


# Time


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv", "ts", "mpg"])
@pytest.mark.parametrize("hole", [(2, 5), (2, 2.15)])
def test_a_hole_in_the_sound_is_silence_and_moves_nothing(tmp_path, suffix, hole):
    path = tmp_path / f"x.{suffix}"
    muxing.write(path, levels(8), [wave(8, (0.5, 1.0), (6, 6.5))], drop(*hole, which=1))
    images, sound = read(path)
    assert seconds_shown(images[:8]) == list(range(8))
    assert loud(sound[: 16000 * 4]) == pytest.approx([0.5, 1.0], abs=0.06)
    assert 4 + loud(sound[16000 * 4 :]) == pytest.approx([6, 6.5], abs=0.06)
    assert len(sound) / 16000 == pytest.approx(8, abs=0.1)
    assert not sound[round(16000 * (hole[0] + 0.06)) : round(16000 * (hole[1] - 0.06))].any()


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv", "ts"])
def test_a_hole_in_the_pictures_keeps_the_last_one(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    muxing.write(path, levels(8), [wave(8, (6, 6.5))], drop(2.5, 5.5, which=0))
    images, sound = read(path)
    assert seconds_shown(images[:8]) == [0, 1, 2, 2, 2, 2, 6, 7]
    assert loud(sound) == pytest.approx([6, 6.5], abs=0.06)


@pytest.mark.parametrize("which", [(0, 1), (0,), (1,)])
@pytest.mark.parametrize(("suffix", "by"), [("mkv", 600), ("flv", 600), ("ts", 600), ("mp4", 600), ("mkv", 26 * 3600)])
def test_a_jump_of_the_time_stamps_is_named_and_fills_no_disk(tmp_path, suffix, by, which):
    def edit(*streams):
        for number in which:
            for packet in streams[number]:
                if seconds(packet) >= 4:
                    shift(packet, by)

    path = tmp_path / f"x.{suffix}"
    muxing.write(path, levels(8), [wave(8)], edit)
    (tmp_path / "frames").mkdir()
    with pytest.raises(ClipError, match=rf"the time stamps of x.{suffix} jump by \d+\.\d s at \d+\.\d\d s"):
        prepare_clip(Clip("x", "a", "", (path,)), tmp_path / "x.wav", tmp_path / "frames", 1, 16000, 0)
    assert len(list((tmp_path / "frames").iterdir())) <= 8 + HOLE


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv", "ts", "mpg"])
@pytest.mark.parametrize("late", [0, 1])
def test_a_stream_that_begins_late_lies_where_it_begins(tmp_path, suffix, late):
    path = tmp_path / f"x.{suffix}"
    muxing.write(path, levels(4), [wave(4, (2, 2.5))], lambda *streams: [shift(packet, 2) for packet in streams[late]])
    images, sound = read(path)
    assert loud(sound) == pytest.approx([2 + 2 * late, 2.5 + 2 * late], abs=0.06)
    shown = seconds_shown(images)
    assert shown[:4] == [0, 1, 2, 3] if late else shown[:6] == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("rate", [16000, None])
@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv"])
def test_a_clock_that_does_not_begin_at_0_makes_nothing_shorter(tmp_path, suffix, rate):
    path = tmp_path / f"x.{suffix}"
    muxing.write(path, levels(4), [wave(4, (2, 2.5))], lambda *s: [shift(p, 30) for packets in s for p in packets])
    images, sound = read(path, rate=rate)
    assert seconds_shown(images[:4]) == [0, 1, 2, 3]
    assert rate is None or loud(sound) == pytest.approx([2, 2.5], abs=0.06)


@pytest.mark.parametrize(("suffix", "codecs"), [("mp4", None), ("mkv", None), ("webm", ("libvpx-vp9", "libopus"))])
def test_the_last_picture_stays_as_long_as_it_says(tmp_path, suffix, codecs):
    def hold(pictures, _):
        pictures[-1].duration = int(8 / pictures[-1].time_base)

    path, images = tmp_path / f"x.{suffix}", [np.full((48, 64, 3), 10 * i, np.uint8) for i in range(21)]
    rate = 48000 if codecs else 44100  # Opus knows no other
    muxing.write(path, images, [wave(10, rate=rate)], hold, fps=10, codecs=codecs, rate=rate)
    with Media(path, 16000) as media:
        assert len(list(media.shown(2))) == 20
        assert media.end == pytest.approx(10, abs=0.05)


def test_a_last_picture_that_stays_for_minutes_in_silence_is_named(tmp_path):
    def hold(pictures, _):
        pictures[-1].duration = int(600 / pictures[-1].time_base)

    muxing.write(tmp_path / "x.mkv", levels(3), [wave(3)], hold)
    with pytest.raises(ClipError, match="the last picture of x.mkv stays for 600.0 s"):
        read(tmp_path / "x.mkv")


# Streams


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize(("default", "begin"), [(0, 1), (1, 2), (None, 1)])
def test_the_sound_is_that_which_the_file_marks_as_the_default(tmp_path, suffix, default, begin):
    path = tmp_path / f"x.{suffix}"
    muxing.write(path, levels(4), [wave(4, (1, 1.5)), wave(4, (2, 2.5))], default=default)
    assert loud(read(path)[1]) == pytest.approx([begin, begin + 0.5], abs=0.06)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv"])
def test_another_stream_may_last_longer_than_what_is_read(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    muxing.write(path, levels(4), [wave(7)])
    assert len(read(path, rate=None)[0]) == 4
    if suffix != "flv":  # which holds one sound
        muxing.write(path, levels(4), [wave(4), wave(12)])
        assert len(read(path)[0]) == 4


def test_a_subtitle_may_last_longer_than_the_video(tmp_path):
    (tmp_path / "x.srt").write_text("1\n00:00:01,000 --> 00:00:20,000\nhello\n")
    with av.open(str(tmp_path / "x.srt")) as source, av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        text = container.add_stream_from_template(source.streams[0])
        for packet in muxing.pictures_of(stream, levels(4)):
            container.mux(packet)
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = text
                container.mux(packet)
    assert len(read(tmp_path / "x.mkv", rate=None)[0]) == 4


def cue(data):
    """An FLV with a text cue between two of its tags, as live recorders write it: a stream that appears on the way."""
    places, at = [], 13
    while at + 11 <= len(data):
        places.append(at)
        at += 11 + int.from_bytes(data[at + 1 : at + 4], "big") + 4
    at = places[len(places) * 3 // 4]

    def word(text):
        return struct.pack(">H", len(text)) + text

    load = (
        b"\2" + word(b"onTextData") + b"\10" + struct.pack(">I", 1) + word(b"text") + b"\2" + word(b"hi") + b"\0\0\11"
    )
    tag = b"\22" + len(load).to_bytes(3, "big") + data[at + 4 : at + 7] + bytes(4) + load
    return data[:at] + tag + len(tag).to_bytes(4, "big") + data[at:]


@pytest.mark.parametrize("rate", [16000, None])
def test_a_stream_that_appears_on_the_way_changes_nothing(tmp_path, rate):
    muxing.write(tmp_path / "x.flv", levels(4), [wave(4, (2, 2.5))])
    (tmp_path / "cue.flv").write_bytes(cue((tmp_path / "x.flv").read_bytes()))
    images, sound = read(tmp_path / "x.flv", rate=rate)
    others, other = read(tmp_path / "cue.flv", rate=rate)
    assert np.array_equal(images, others) and (rate is None or np.array_equal(sound, other))


# Damage


def noisy(count=50):
    """Pictures in motion, all different."""
    whole = np.random.default_rng(0).integers(0, 256, (140, 160, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    return [np.ascontiguousarray(whole[2 * k : 2 * k + 120, 3 * k : 3 * k + 160]) for k in range(count)]


@pytest.mark.parametrize("suffix", ["flv", "avi", "mpg"])
def test_damage_that_changes_pictures_is_named(tmp_path, suffix):
    """Bad bytes within, of which decoders make pictures all the same."""
    path = tmp_path / f"x.{suffix}"
    video, audio = muxing.CODECS[suffix]
    with av.open(str(path), "w") as container:  # pictures that build on one another
        stream, track = container.add_stream(video, rate=25), container.add_stream(audio, rate=44100, layout="mono")
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 120, "yuv420p", 400_000
        packets = muxing.pictures_of(stream, noisy()) + muxing.sound_of(track, wave(2, (0, 2)))
        for packet in sorted(packets, key=lambda packet: seconds(packet, packet.dts)):
            container.mux(packet)
    whole, images = path.read_bytes(), read(path, fps=25)[0]
    hurt = named = 0
    for seed in range(12):
        draw, bad = random.Random(seed), bytearray(whole)
        at = draw.randrange(len(bad) // 5, len(bad) * 4 // 5)
        bad[at : at + 1000] = draw.randbytes(1000)
        path.write_bytes(bad)
        try:
            others = read(path, fps=25)[0]
            hurt += len(others) != len(images) or np.abs(np.subtract(images, others, dtype=int)).mean() > 1
        except ClipError as error:
            assert "damaged" in str(error) or "truncated" in str(error) or "time stamps" in str(error)
            named += 1
    assert hurt == 0 and named >= 9


@pytest.mark.parametrize(
    "error", [IndexError("list index"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), MemoryError()]
)
def test_whatever_a_decoder_raises_is_the_clips_failure(tmp_path, monkeypatch, error):
    muxing.write(tmp_path / "x.mkv", levels(2), [wave(2)])

    def fail(*_):
        raise error

    monkeypatch.setattr(Media, "_see", fail)
    with pytest.raises(ClipError, match=rf"x\.mkv does not decode \({type(error).__name__}"):
        read(tmp_path / "x.mkv")


# Sound


def frames(rate, begin, end, layout="mono"):
    """A tone from `begin` to `end` in s, in frames of a tenth of a second."""
    for start in np.arange(begin, end - 1e-9, 0.1):
        moments = np.arange(round(rate * 0.1)) / rate + start
        part = np.repeat(12000 * np.sin(2 * np.pi * 500 * moments), 1 if layout == "mono" else 2)
        frame = av.AudioFrame.from_ndarray(part.astype(np.int16)[None], format="s16", layout=layout)
        frame.sample_rate = rate
        yield frame, float(start)


def test_a_sound_that_changes_its_format_on_the_way_goes_on():
    track = Track(16000)
    for frame, time in (*frames(44100, 0, 1), *frames(22050, 1, 2, "stereo"), *frames(48000, 2, 3)):
        track.add(frame, time)
    track.flush()
    sound = track.samples()
    assert len(sound) == pytest.approx(48000, abs=60)
    ideal = 12000 * np.sin(2 * np.pi * 500 * np.arange(len(sound)) / 16000)
    for second in (0.5, 1.5, 2.5):
        part = slice(round(16000 * (second - 0.3)), round(16000 * (second + 0.3)))
        assert np.abs(sound[part] - ideal[part]).max() < 600


def test_sound_before_time_0_is_cut_and_stamps_that_go_back_are_named():
    track = Track(16000)
    for frame, time in (*frames(16000, -0.2, 0.5), *frames(16000, 1, 1.5)):
        track.add(frame, time)
    track.flush()
    sound = track.samples()
    assert len(sound) == 24000 and not sound[8100:15900].any() and np.abs(sound[:8000]).max() > 11000
    with pytest.raises(ClipError, match="go back by 1.40 s at 1.40 s"):
        track.add(*next(frames(16000, 0, 1)))


def test_jitter_of_the_stamps_changes_no_sample():
    steady, jittery = Track(16000), Track(16000)
    draws = np.random.default_rng(0).uniform(-0.02, 0.02, 30)
    for frame, time in frames(44100, 0, 3):
        steady.add(frame, time)
    for (frame, time), by in zip(frames(44100, 0, 3), draws, strict=True):
        jittery.add(frame, time + by * (time > 0))
    for track in (steady, jittery):
        track.flush()
    assert np.array_equal(steady.samples(), jittery.samples())
