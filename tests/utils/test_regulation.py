"""What a finished run says of its regulation, from rows made for the purpose."""

from argparse import Namespace

from utils.runs.regulation import Regulated, describe_regulation, regulated


def rows(shares, holds, opened=None):
    """An audio encoder that is regulated in these shares of the steps, beside a visual one that never is."""
    opened = opened or [share > 0 for share in shares]
    return [
        {
            "regulated": {"audio": share, "visual": 0},
            "hold": {"audio": hold, "visual": 1.0},
            "prime_window": {"audio": is_open, "visual": False},
        }
        for share, hold, is_open in zip(shares, holds, opened, strict=True)
    ]


def say(epochs, **flags):
    args = dict(start_epoch=0, window="paper", window_every=None, clip_norm=None) | flags
    return describe_regulation(epochs, Namespace(**args))


def test_the_hold_is_the_mean_of_the_regulated_epochs():
    epochs = rows([0, 0.5, 1.0, 0], [1.0, 0.1, 0.3, 0.9])
    assert regulated(epochs, "audio") == Regulated(2, 4, 0.75, 0.2)
    assert regulated(epochs, "visual") == Regulated(0, 4, 0.0, 1.0)  # of all epochs, where none was regulated
    line = say(epochs)
    assert line == "regulated: audio in 2 of 4 epochs, 75% of their steps, hold 0.20"


def test_a_run_that_regulates_nothing_says_why_and_what_to_change():
    shut = say(rows([0, 0], [1.0, 1.0]))
    assert "no prime window opened in 2 epochs" in shut and "--window accumulated" in shut
    short = say(rows([0, 0], [1.0, 1.0]), start_epoch=2)
    assert "in the first 2 epochs" in short and "--epochs" in short and "Eq. 11" not in short
    assert say(rows([0, 0], [1.0, 1.0]), start_epoch=1) == shut
    assert say(rows([0, 0], [1.0, 1.0]), start_epoch=2, window_every=5) == shut  # where --start_epoch counts no epochs
    accumulated = say(rows([0, 0], [1.0, 1.0]), window="accumulated")
    assert "try a lower --threshold" in accumulated and "Eq. 11" not in accumulated
    assert say(rows([1.0], [0.1]), start_epoch=1).startswith("regulated: ")  # outside the windows
    behind = say(rows([0, 0], [1.0, 1.0], opened=[True, False]))
    assert "nothing was regulated" in behind and "no prime window" not in behind
    loose = say(rows([1.0, 1.0], [0.97, 0.99]))
    assert "hold 0.98; that holds nothing" in loose and "--beta" in loose
    assert "--clip_norm" in say(rows([1.0], [0.2]), clip_norm=1.0) and "--clip_norm" not in loose
    assert "holds nothing" not in say(rows([1.0, 1.0], [0.5, 0.99]))


def test_an_optimizer_without_a_hold_and_a_method_without_a_regulation():
    assert say(rows([1.0], [None])) == "regulated: audio in 1 of 1 epochs, 100% of their steps"
    assert say([{"prime_window": {"audio": True}}]) is None
