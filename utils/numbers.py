"""Argument types: numbers with a range, whose error says what was wanted."""

import argparse
from collections.abc import Callable


def _number(kind: type, allowed: Callable[[float], bool], wanted: str) -> Callable[[str], float]:
    """An argument type: a number of this kind for which `allowed` holds; the error says what was `wanted`."""

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return convert


seed = _number(int, lambda x: -(2**63) <= x < 2**63, "a whole number of 64 bits")
positive = _number(int, lambda x: x > 0, "a positive whole number")
severity = _number(int, lambda x: 0 <= x <= 5, "a severity, 0 to 5")
count = _number(int, lambda x: x >= 0, "a whole number from 0")
number = _number(float, lambda x: abs(x) < float("inf"), "a finite number")
positive_float = _number(float, lambda x: 0 < x < float("inf"), "a positive number")
not_negative = _number(float, lambda x: 0 <= x < float("inf"), "a number from 0")
proper_share = _number(float, lambda x: 0 < x < 1, "a share above 0 and below 1")
up_to_ten = _number(float, lambda x: 0 <= x <= 10, "a number from 0 to 10")
fraction = _number(float, lambda x: 0 <= x < 1, "a share from 0 to below 1")
share = _number(float, lambda x: 0 < x <= 1, "a share above 0, at most 1")
probability = _number(float, lambda x: 0 <= x <= 1, "a probability from 0 to 1")
