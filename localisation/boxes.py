"""What a box of an object in a frame is: the one check, of the files that are published and of those prepared."""

import math
from collections.abc import Sequence


def is_box(values: Sequence) -> bool:
    """Whether these are left, top, width and height in shares of the frame, as far as a pixel matters; NaN is not."""
    if len(values) != 4 or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        return False
    left, top, width, height = values
    return min(left, top) >= 0 and max(left + width, top + height) <= 1.01 and min(width, height) > 0
