"""Where scripts are run, and finished runs for those that read them."""

import pytest
from helpers.desk import Desk
from helpers.table2 import make


@pytest.fixture
def desk(monkeypatch, demo, tmp_path):
    return Desk(monkeypatch, demo, tmp_path / "out")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The finished runs of Table 2, to be read only: a test that changes one copies it."""
    return make(tmp_path_factory.mktemp("made") / "results")
