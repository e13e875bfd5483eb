"""What a finished run says of its regulation, from rows made for the purpose."""

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


def test_the_hold_is_the_mean_of_the_regulated_epochs():
    epochs = rows([0, 0.5, 1.0, 0], [1.0, 0.1, 0.3, 0.9])
    assert regulated(epochs, "audio") == Regulated(2, 4, 0.75, 0.2)
    assert regulated(epochs, "visual") == Regulated(0, 4, 0.0, 1.0)  # of all epochs, where none was regulated
    line = describe_regulation(epochs)
    assert line == "regulated: audio in 2 of 4 epochs, 75% of their steps, hold 0.20"


def test_a_run_that_regulates_nothing_says_why_and_what_to_change():
    shut = describe_regulation(rows([0, 0], [1.0, 1.0]))
    assert "no prime window opened in 2 epochs" in shut and "--window accumulated" in shut
    short = describe_regulation(rows([0, 0], [1.0, 1.0]), start_epoch=2)
    assert "in the first 2 epochs" in short and "--epochs" in short and "Eq. 11" not in short
    assert describe_regulation(rows([0, 0], [1.0, 1.0]), start_epoch=1) == shut
    assert describe_regulation(rows([1.0], [0.1]), start_epoch=1).startswith("regulated: ")  # outside the windows
    behind = describe_regulation(rows([0, 0], [1.0, 1.0], opened=[True, False]))
    assert "nothing was regulated" in behind and "no prime window" not in behind
    loose = describe_regulation(rows([1.0, 1.0], [0.97, 0.99]))
    assert "hold 0.98; that holds nothing" in loose and "--beta" in loose
    assert "holds nothing" not in describe_regulation(rows([1.0, 1.0], [0.5, 0.99]))


def test_an_optimizer_without_a_hold_and_a_method_without_a_regulation():
    assert describe_regulation(rows([1.0], [None])) == "regulated: audio in 1 of 1 epochs, 100% of their steps"
    assert describe_regulation([{"prime_window": {"audio": True}}]) is None
