"""Names of clips and classes that file systems, lists and terminals make something else of, as training reads them."""

import pytest
import torch
from helpers.forked import file
from helpers.instances import make_folder
from helpers.places import ROOT

from dataset import build
from engine.parser import parse
from utils.errors import DataError

NAMES = {
    "no-break space": "a\u00a0clip\u00a0",
    "joined emoji": "👩\u200d👩\u200d👧 dance",
    "line separator": "a\u2028b",
    "as long as a file's name may be": "x" * 251,
    "accents": "été",
    "a comma and quotes": 'he said "no, no"',
}


def rename(root, old, new):
    """Call a clip of the training split by another name, in the list as csv writes it."""
    (root / "AudioWAV" / f"{old}.wav").rename(root / "AudioWAV" / f"{new}.wav")
    (root / "Image-01-FPS" / old).rename(root / "Image-01-FPS" / new)
    quoted = '"' + new.replace('"', '""') + '"'
    text = (root / "train.csv").read_text()
    (root / "train.csv").write_text(text.replace(f"{old},", f"{quoted},"))


def read(root, *more):
    return build(
        parse(["--dataset", "folder", "--data_root", str(root), "--image_size", "8", *more]), ("audio", "visual")
    )


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_clip_may_have_any_name_that_a_file_may_have(tmp_path, name):
    root = make_folder(tmp_path / "data")
    before = read(root).test[0][0], read(root).train.names
    rename(root, "train003", name)
    data = read(root, "--cache", "disk", "--workers", "0").train
    assert data.names == [name if other == "train003" else other for other in before[1]]
    assert data[3][0].keys() == {"audio", "visual"}


def test_a_name_that_is_too_long_for_a_file_is_a_clip_that_is_missing(tmp_path):
    root = make_folder(tmp_path / "data")
    (root / "train.csv").write_text((root / "train.csv").read_text().replace("train003,", "x" * 300 + ","))
    with pytest.raises(DataError, match="missing in .*1: x+.wav; frame folders missing in .*1: x+"):
        read(root)


def test_suffixes_may_be_in_capitals(tmp_path):
    root = make_folder(tmp_path / "data")
    before = read(root).test[2][0]
    for path in [*root.glob("AudioWAV/*.wav"), *root.glob("Image-01-FPS/*/*.jpg")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    for found in (read(root).test[2][0], read(pack(root, tmp_path / "out")).test[2][0]):
        assert all(torch.equal(before[name], found[name]) for name in before)


def pack(root, out):
    import pack_shards

    pack_shards.main(["--data_root", str(root), "--out", str(out)])
    return out / "{000..001}.tar"


def test_a_terminal_of_ascii_shows_what_it_can(forked, tmp_path):
    root = make_folder(tmp_path / "données", classes=("été", "👩\u200d👧"))
    words = ["--dataset", "folder", "--data_root", root, "--out", tmp_path / "sortie é"]
    words += "--method joint --epochs 1 --encoder convnet --image_size 16 --cache disk --workers 0 --device cpu".split()
    done = forked.run(file(ROOT / "main.py", *words), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "sortie \\xe9" in done.stdout
