"""A signal stops a program in one sentence, wherever it comes."""

import os
import signal

import pytest

from utils.stopping import Stopped, noted, signals


def be_asked():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_that_a_library_makes_an_error_of_its_own_is_still_a_stop():
    with pytest.raises(Stopped, match="^stopped by SIGTERM: go on with --resume$") as caught, signals():
        try:
            be_asked()
        except Stopped:
            raise TypeError("unsupported callable") from None
    assert caught.value.status == 128 + signal.SIGTERM


def test_an_error_is_itself_without_a_signal_and_where_a_signal_only_waits():
    with pytest.raises(TypeError), signals():
        raise TypeError
    with pytest.raises(TypeError), signals(), noted():
        be_asked()
        raise TypeError
