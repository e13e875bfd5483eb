"""Sound files of every kind become the same wave, or are named; and librosa works where nothing can be written."""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from helpers.instances import make_folder
from helpers.namespaces import INSIDE, allowed
from helpers.places import ROOT

from dataset import build
from dataset.loader import make_loader
from dataset.recipes import compiled
from dataset.recipes.audio import Filterbank, LogSpectrogram, read_wave, wave_fault
from dataset.storage.source import naming
from engine.parser import parse
from utils.errors import DataError, RunError

RATE = 16000
TIME = np.arange(2 * RATE) / RATE
WAVE = 0.3 * np.sin(2 * np.pi * (300 + 200 * TIME) * TIME) + 0.02 * np.random.default_rng(0).standard_normal(len(TIME))
RECIPES = [LogSpectrogram(22050, 3.0, 512, 353), Filterbank(frames=300)]

# (format, subtype) -> how far a sample may be off
KINDS = {
    ("WAV", "PCM_U8"): 1 / 128, ("WAV", "PCM_16"): 1 / 32768, ("WAV", "PCM_24"): 1e-6, ("WAV", "PCM_32"): 1e-7,
    ("WAV", "FLOAT"): 1e-7, ("WAV", "DOUBLE"): 1e-7, ("WAV", "ULAW"): 0.02, ("WAV", "ALAW"): 0.02,
    ("WAV", "GSM610"): 0.3, ("WAV", "IMA_ADPCM"): 0.3, ("WAV", "MS_ADPCM"): 0.3, ("WAVEX", "PCM_16"): 1 / 32768,
    ("W64", "PCM_16"): 1 / 32768, ("RF64", "PCM_16"): 1 / 32768, ("AIFF", "PCM_16"): 1 / 32768,
    ("AU", "PCM_16"): 1 / 32768, ("FLAC", "PCM_24"): 1e-6, ("OGG", "VORBIS"): 0.1, ("MP3", "MPEG_LAYER_III"): 0.3,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_a_wave_is_the_same_in_every_kind_of_file(tmp_path, kind):
    path = tmp_path / "clip.wav"
    soundfile.write(path, WAVE, RATE, kind[1], format=kind[0])
    found = read_wave(path, RATE)
    assert found.dtype == np.float32 and abs(len(found) - len(WAVE)) < 2000
    shared = min(len(found), len(WAVE))
    if kind[0] not in ("OGG", "MP3") and kind[1] != "GSM610":
        assert np.abs(found[:shared] - WAVE[:shared]).max() <= KINDS[kind]
    assert found.std() == pytest.approx(WAVE.std(), rel=0.1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] != "OGG"], ids=" ".join)  # which states no length
def test_a_sound_that_is_cut_off_is_named(tmp_path, kind):
    path = tmp_path / "clip.wav"
    soundfile.write(path, WAVE, RATE, kind[1], format=kind[0])
    path.write_bytes(cut := path.read_bytes()[: path.stat().st_size // 2])
    stated = kind[0] not in ("FLAC", "MP3")  # in bytes, so that the file need not be read
    assert (wave_fault(path) == "truncated") == stated
    for file in (path, io.BytesIO(cut)):  # as from a folder and from a shard
        with pytest.raises(DataError, match="clip x does not decode .*: prepare it again") as said, naming("x"):
            read_wave(file, RATE)
        assert not stated or f"truncated: {len(cut)} of " in str(said.value)


@pytest.mark.parametrize("sizes", [(2**32 - 1, 2**32 - 1), (0, 64000), (64044, 64000)], ids=str)
def test_sizes_of_streams_and_of_careless_writers_are_no_truncation(tmp_path, sizes):
    path = tmp_path / "clip.wav"
    soundfile.write(path, WAVE, RATE, "PCM_16")
    data = bytearray(path.read_bytes())
    data[4:8], data[40:44] = (size.to_bytes(4, "little") for size in sizes)
    path.write_bytes(data)
    assert wave_fault(path) is None and len(read_wave(path, RATE)) == len(WAVE)


def test_an_mp3_that_does_not_state_its_length_is_read(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, WAVE, 44100, format="MP3", compression_level=0.1, bitrate_mode="CONSTANT")
    data = path.read_bytes()
    path.write_bytes(data[data.find(data[:2], data.find(b"Info")) :])  # without its first frame, the Xing header
    assert soundfile.info(path).frames > len(read_wave(path, 44100)) >= len(WAVE)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_format_that_cannot_be_rewound_is_trained_on(tmp_path, workers):
    root = make_folder(tmp_path / "data")
    clip = sorted((root / "AudioWAV").glob("train*.wav"))[3]
    soundfile.write(clip, WAVE[:RATE], 8000, subtype="GSM610")
    args = parse(["--dataset", "folder", "--data_root", str(root), "--image_size", "8"])
    assert sum(len(batch) for batch in make_loader(build(args, ("audio",)).train, 8, workers)) == 24


@pytest.mark.parametrize("scale", [32767, 2**23, 127, 1e9, 1e30], ids=str)
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_samples_in_the_scale_of_integers_are_named(tmp_path, scale, subtype):
    path = tmp_path / "clip.wav"
    soundfile.write(path, WAVE * scale, RATE, subtype)
    for recipe in RECIPES:
        with pytest.raises(
            DataError, match="clip x does not decode .its samples reach .* where 1 is full scale"
        ) as said:
            with naming("x"):
                recipe(path)
        assert "divide them by the scale" in str(said.value) and "\n" not in str(said.value)


def test_a_mix_in_floating_point_may_exceed_full_scale(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, 6 * WAVE, RATE, "FLOAT")
    assert np.abs(read_wave(path, RATE)).max() > 1.8


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_named(tmp_path, value):
    wave = WAVE.copy()
    wave[1000] = value
    soundfile.write(tmp_path / "clip.wav", wave, RATE, "FLOAT")
    with pytest.raises(DataError, match="NaN or infinite"), naming("x"):
        read_wave(tmp_path / "clip.wav", RATE)


# Numba's cache


@pytest.fixture
def nowhere(monkeypatch):
    """Neither numba's setting nor a folder that it would find."""
    monkeypatch.delenv(compiled.SETTING, raising=False)
    monkeypatch.setattr(compiled, "writable", lambda folder: False)
    compiled.find_place.cache_clear()
    yield
    compiled.find_place.cache_clear()


def test_compiled_functions_go_to_a_temporary_folder_where_no_other_is(nowhere, monkeypatch):
    kept = []
    monkeypatch.setattr(compiled.atexit, "register", kept.append)
    compiled.find_place()
    folder = os.environ[compiled.SETTING]
    assert os.stat(folder).st_mode & 0o777 == 0o700  # numba executes what lies there
    compiled.find_place()
    assert len(kept) == 1 and os.environ[compiled.SETTING] == folder
    kept[0]()
    assert not os.path.exists(folder)
    monkeypatch.delenv(compiled.SETTING)


def test_without_any_folder_the_remedy_is_named(nowhere, monkeypatch):
    def refuse(prefix):
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(compiled.tempfile, "mkdtemp", refuse)
    with pytest.raises(RunError, match="set NUMBA_CACHE_DIR"):
        compiled.find_place()


def test_a_refusal_of_numba_is_not_a_fault_of_the_clip():
    with pytest.raises(RunError, match="set NUMBA_CACHE_DIR"), naming("x"), compiled.compiling():
        raise RuntimeError("cannot cache function '__o_fold': no locator available for file")


def test_the_users_folder_is_nowhere_without_a_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/none")
    assert not compiled.writable(compiled.user_folder())
    monkeypatch.setattr(compiled.os.path, "expanduser", lambda path: path)
    assert not compiled.writable(compiled.user_folder())


@pytest.mark.skipif(not allowed, reason="the kernel allows no mount namespace")
def test_functions_are_compiled_in_a_container_that_is_read_only(tmp_path):
    """Neither the environment nor the code nor HOME can be written; librosa's would take half a minute longer."""
    code = tmp_path / "code"
    for name in ("dataset", "utils"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    packages = os.path.dirname(soundfile.__file__)
    frozen = " && ".join(f"mount --bind {at} {at} && mount -o remount,ro,bind {at}" for at in (packages, code))
    program = "import numpy as np; from dataset.recipes.resample import crop; "
    program += "print(crop(np.full((5, 5, 3), 7, np.uint8), (0, 0, 5, 5), 2).tolist())"
    command = f"{frozen} && cd {code} && exec env -i HOME=/proc/none PATH=/usr/bin:/bin {sys.executable} -c '{program}'"
    done = subprocess.run([*INSIDE, "sh", "-c", command], capture_output=True, text=True)
    assert done.stdout == f"{np.full((3, 2, 2), 7).tolist()}\n", done.stderr
    assert "warning: numba" in done.stderr and "NUMBA_CACHE_DIR" in done.stderr
