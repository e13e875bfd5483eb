"""What is refused of the files that a preparation finds in its own folder."""

import pytest

from dataset.prepare.arrays import finished
from dataset.prepare.clips import Clip, check_sources
from dataset.prepare.manifest import open_manifest
from utils.errors import DataError

STRANGE = ["null", "[]", "3", '"x"', "{", "[" * 100_000, "{}", '{"settings": 3}']


def refused(of, *args):
    with pytest.raises(DataError, match="choose another --out") as error:
        of(*args)
    assert len(str(error.value)) < 300
    return str(error.value)


@pytest.mark.parametrize("text", STRANGE, ids=lambda text: text[:9])
def test_a_manifest_of_another_form(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    for message in (refused(open_manifest, tmp_path, {}, {}, False), refused(finished, tmp_path, {}, "train.npz")):
        assert "manifest.json is not" in message


def test_a_manifest_without_splits_and_sources_of_another_form(tmp_path):
    (tmp_path / "manifest.json").write_text('{"settings": {}}')
    assert "(without split, splits)" in refused(open_manifest, tmp_path, {}, {}, False)
    (tmp_path / "sources.json").write_text("3")
    assert "sources.json is not" in refused(check_sources, [Clip("a", "b", "", ())], tmp_path, False)
