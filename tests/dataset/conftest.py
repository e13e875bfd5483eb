"""The demo in shards."""

import shutil

import pytest
from helpers.shards import pack


@pytest.fixture(scope="session")
def packed(demo, tmp_path_factory):
    """Five shards of training clips, the last of eight, and two of test clips."""
    return pack(demo, tmp_path_factory.mktemp("packed") / "demo", "--samples", "10")


@pytest.fixture
def copy(packed, tmp_path):
    """Shards to break."""
    return shutil.copytree(packed, tmp_path / "copy")
