"""The preparation of MOSI and MOSEI as a program, for its tests and those of the pickles that it reads."""

import pickle
from functools import partial
from pathlib import Path

import prepare_mosi
import pytest
from helpers.preparing import status_of


@pytest.fixture
def run(tmp_path, capfd):
    """run(data or path, **flags): exit status, stdout and stderr of the script; writes tmp_path/out."""

    def run(data, protocol=4, **flags):
        path = data
        if not isinstance(data, Path):
            path = tmp_path / "file.pkl"
            path.write_bytes(pickle.dumps(data, protocol))
        argv = ["--raw", str(path), "--out", str(tmp_path / "out")]
        argv += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        status = status_of(partial(prepare_mosi.main, argv))
        return status, *capfd.readouterr()

    return run
