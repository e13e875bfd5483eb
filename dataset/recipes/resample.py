"""Crop and resize as Pillow does with BILINEAR, to the bit, where Pillow is slow (arrays) or cannot (CUDA).

Each pixel of the result is a mean over a triangle around its place in the crop, as wide as what falls on it and at
least one pixel to each side: across first, then down. Pillow computes in integers, with weights in units of 2^-BITS and
halves rounded up after each; so do both of these, and every way to read a frame gives the same picture.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dataset.recipes.compiled import compiling

BITS = 22
ROWS = 16


def crop(picture: np.ndarray, box: tuple[int, int, int, int], size: int, mirrored: bool = False) -> np.ndarray:
    """The part `box` (left, top, right, bottom) of a picture (H, W, 3) uint8, resized to (3, size, size) uint8.

    `mirrored`: then its left and right are exchanged.
    """
    left, top, right, bottom = box
    weights, apply = _compiled()
    return apply(picture[top:bottom, left:right], *weights(right - left, size), *weights(bottom - top, size), mirrored)


@cache
def _compiled() -> tuple[Callable, Callable]:
    """`_weights` and `_apply` in machine code: some seconds at the very first use, then kept in a file."""
    with compiling():
        from numba import njit

        return njit(cache=True)(_weights), njit(cache=True)(_apply)


def _weights(pixels, size):
    """For each of `size` pixels: the first pixel that counts, (size,), how many do, (size,), and their weights."""
    scale = pixels / size
    reach = max(scale, 1.0)
    first, count = np.empty(size, np.int64), np.empty(size, np.int64)
    weights = np.empty((size, 2 * math.ceil(reach) + 1), np.int64)
    share = np.empty(weights.shape[1])
    for i in range(size):
        middle = (i + 0.5) * scale
        first[i] = max(int(middle - reach + 0.5), 0)
        count[i] = min(int(middle + reach + 0.5), pixels) - first[i]
        total = 0.0
        for k in range(count[i]):
            share[k] = max(1 - abs((first[i] + k - middle + 0.5) / reach), 0.0)
            total += share[k]
        for k in range(count[i]):
            weights[i, k] = int(share[k] / total * 2**BITS + 0.5)
    return first, count, weights


def _apply(picture, first_x, count_x, weights_x, first_y, count_y, weights_y, mirrored):
    rows, columns = len(first_y), len(first_x)
    height, width = picture.shape[:2]
    half = np.int32(1 << (BITS - 1))
    # Across, ROWS rows at a time and column by column, so that a processor sums over many rows by one instruction.
    block, done = np.empty((width, 3 * ROWS), np.uint8), np.empty((columns, 3 * ROWS), np.uint8)
    narrow, sums = np.empty((3, height, columns), np.uint8), np.empty(3 * ROWS, np.int32)
    for top in range(0, height, ROWS):
        there = min(ROWS, height - top)
        for r in range(there):
            row = picture[top + r]
            for x in range(width):
                for channel in range(3):
                    block[x, channel * ROWS + r] = row[x, channel]
        for i in range(columns):
            sums[:] = half
            for k in range(count_x[i]):
                pixels, weight = block[first_x[i] + k], np.int32(weights_x[i, k])
                for j in range(3 * ROWS):
                    sums[j] += pixels[j] * weight
            written = done[columns - 1 - i if mirrored else i]
            for j in range(3 * ROWS):
                written[j] = sums[j] >> BITS
        for channel in range(3):
            for r in range(there):
                written = narrow[channel, top + r]
                for i in range(columns):
                    written[i] = done[i, channel * ROWS + r]
    # Down, row by row.
    result, sums = np.empty((3, rows, columns), np.uint8), np.empty(columns, np.int32)
    for channel in range(3):
        for j in range(rows):
            sums[:] = half
            for k in range(count_y[j]):
                row, weight = narrow[channel, first_y[j] + k], np.int32(weights_y[j, k])
                for i in range(columns):
                    sums[i] += row[i] * weight
            written = result[channel, j]
            for i in range(columns):
                written[i] = sums[i] >> BITS
    return result


def crops(pictures: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The parts `boxes` (N, 4) of pictures (N, 3, H, W) uint8, resized to (N, 3, size, size) float32 grey levels.

    Products of matrices, on whatever device they are. What lies outside a box has no influence.
    """
    left, top, right, bottom = boxes.unbind(dim=1)
    across = _matrix(left, right, pictures.shape[3], size)
    down = _matrix(top, bottom, pictures.shape[2], size)
    return _weigh(down, _weigh(across, pictures.float().mT).mT)


def _matrix(first: Tensor, end: Tensor, pixels: int, size: int) -> Tensor:
    """(N, size, pixels) weights, in units of 2^-BITS, of the pixels first..end-1, (N,), in each of `size` pixels."""
    place = torch.arange(pixels, device=first.device) - first.view(-1, 1, 1)
    count = (end - first).view(-1, 1, 1)
    scale = count.double() / size
    middle = (torch.arange(size, device=first.device).view(1, -1, 1) + 0.5) * scale
    share = (1 - ((place - middle + 0.5) / scale.clamp(min=1)).abs()).clamp(min=0)
    share = share * ((place >= 0) & (place < count))
    return (share / share.sum(dim=2, keepdim=True) * 2**BITS + 0.5).floor()


def _weigh(weights: Tensor, x: Tensor) -> Tensor:
    """(N, 3, size, other) grey levels: the sums of x (N, 3, pixels, other) by the weights (N, size, pixels), rounded.

    The upper and the lower half of the weights' bits apart, so that float32, in which matrices are multiplied fast,
    holds every sum exactly: grey levels have 8 bits, and the upper halves of a row add up to 11.
    """
    upper = weights.div(2 ** (BITS // 2), rounding_mode="floor")
    lower = weights - upper * 2 ** (BITS // 2)
    high, low = ((half.float().unsqueeze(1) @ x).int() for half in (upper, lower))
    return ((high * 2 ** (BITS // 2) + low + 2 ** (BITS - 1)) >> BITS).float()
