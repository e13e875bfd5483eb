"""Raw sound files of all headers: whole ones are taken, truncated ones named, lengths that were left open filled in."""

import numpy as np
import prepare_cremad
import pytest
import soundfile

from dataset.prepare.clips import ClipError
from dataset.prepare.sound import check_sound

TONE = (0.3 * np.sin(2 * np.pi * 500 * np.arange(8000) / 8000)).astype(np.float32)
KINDS = {
    "wav": dict(format="WAV"),
    "rifx": dict(format="WAV", endian="BIG"),
    "wavex": dict(format="WAVEX"),
    "rf64": dict(format="RF64"),
    "w64": dict(format="W64"),
    "flac": dict(format="FLAC"),
    "aiff": dict(format="AIFF"),
    "au": dict(format="AU"),
    "caf": dict(format="CAF"),
    "gsm": dict(format="WAV", subtype="GSM610"),
    "adpcm": dict(format="WAV", subtype="MS_ADPCM"),
    "ulaw": dict(format="WAV", subtype="ULAW"),
    "float": dict(format="WAV", subtype="FLOAT"),
    "vorbis": dict(format="OGG", subtype="VORBIS"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_sounds_are_taken_under_the_name_wav_and_cut_ones_named(tmp_path, kind):
    path = tmp_path / "x.wav"
    soundfile.write(path, TONE, 8000, **KINDS[kind])
    prepare_cremad.copy_sound(path, tmp_path / "y.wav")
    assert (tmp_path / "y.wav").read_bytes() == path.read_bytes()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(ClipError, match="is truncated|does not decode"):
        check_sound(path)


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0x7FFFF024, 0x7FFFF000),  # sox
        (0x7FFFFF24, 0x7FFFFF00),  # arecord
        (0x80000024, 0x80000000),
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
        (0xFFFFFFFF, 0xFFFFFFFF - 36),
        (0, 0),
        (36, 0),
        (0, 16000),
    ],
)
def test_a_length_that_the_writer_did_not_know_is_that_of_the_file(tmp_path, riff, data):
    path = tmp_path / "x.wav"
    soundfile.write(path, TONE, 8000, "PCM_16")
    whole, there = soundfile.read(path, dtype="int16")[0], bytearray(path.read_bytes())
    there[4:8], there[40:44] = riff.to_bytes(4, "little"), data.to_bytes(4, "little")
    path.write_bytes(there)
    prepare_cremad.copy_sound(path, tmp_path / "y.wav")
    assert np.array_equal(soundfile.read(tmp_path / "y.wav", dtype="int16")[0], whole)


def test_an_empty_sound_and_a_byte_of_padding(tmp_path):
    soundfile.write(tmp_path / "x.wav", TONE[:0], 8000)
    with pytest.raises(ClipError, match="holds no sound"):
        check_sound(tmp_path / "x.wav")
    soundfile.write(tmp_path / "x.wav", TONE[:1], 8000, "PCM_U8")
    counted = bytearray((tmp_path / "x.wav").read_bytes()[:45])  # the RIFF size counts a byte that is not there
    (tmp_path / "x.wav").write_bytes(counted)
    assert check_sound(tmp_path / "x.wav") is None
