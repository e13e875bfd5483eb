"""From a picture file to 8-bit RGB: the one reader, for training, caches, shards and every data set alike."""

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

MOST_PIXELS = 2**26  # of a picture: 200 MB as RGB; cameras make a fifth of that
PHOTOMETRIC = 0x106  # TIFF's tag
ORIENTATION = 0x112  # EXIF's tag; 5 to 8 exchange width and height
SEVERAL = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")  # formats of animations and of pages
EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
# What Pillow raises for damaged files, besides OSError.
DAMAGE = (SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, struct.error, OverflowError)


def read_picture(file: Path | BinaryIO) -> Image.Image:
    """The picture in `file` as RGB, upright as its EXIF orientation says, 16-bit grey levels divided by 257.

    Transparent parts show white, as on a page.

    Raises:
        OSError: for what is no picture, is damaged or too large, or leaves open what its pixels look like: floating-
            point and 32-bit levels, whose white is not known, and several pictures in one file.
    """
    with damage(), opened(file) as image:
        if image.format in SEVERAL and image.n_frames > 1:
            raise OSError(f"it holds {image.n_frames} pictures: save the one that is meant")
        upright = ImageOps.exif_transpose(image) if orientation(image) != 1 else image
        if upright.mode not in EIGHT_BITS:
            upright = from_16_bits(upright)
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def size_of(file: Path | BinaryIO) -> tuple[int, int]:
    """(width, height) of `read_picture`, by the file's header. Raises as `read_picture`."""
    with damage(), opened(file) as image:
        width, height = image.size
        # Pillow exchanges those of a TIFF by itself.
        turned = image.format != "TIFF" and orientation(image) >= 5
        return (height, width) if turned else (width, height)


def opened(file: Path | BinaryIO) -> Image.Image:
    """The picture, of which only the header has been read. Raises OSError if it is too large."""
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise OSError(str(error)) from None
    if math.prod(image.size) > MOST_PIXELS:
        image.close()
        raise OSError(f"its header claims {' x '.join(map(str, image.size))} pixels")
    return image


def orientation(image: Image.Image) -> int:
    """The orientation in EXIF, 1 to 8; without one that can be read it is 1, upright, as browsers take it."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except DAMAGE:
        return 1
    return value if value in range(1, 9) else 1


def from_16_bits(image: Image.Image) -> Image.Image:
    """A picture of 16-bit grey levels in 8 bits. Raises OSError for levels of another kind."""
    # Pillow has 16-bit grey in mode I for some formats; in a TIFF that mode is of 32 bits.
    if not (image.mode.startswith("I;16") or image.mode == "I" and image.format in ("PNG", "PPM")):
        raise OSError(f"its pixels are of Pillow's mode {image.mode}, which is not read: save it as 8-bit RGB")
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0:  # which Pillow heeds with 8 bits only
        raise OSError("it has 16-bit levels of which 0 is white: save it with 8 bits")
    if "transparency" in image.info:
        raise OSError("it has 16-bit levels of which one is transparent: save it with 8 bits")
    levels = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(levels.clip(0, 65535) / 257).astype(np.uint8))


@contextmanager
def damage() -> Iterator[None]:
    """A context in which all that Pillow raises for damaged files becomes an OSError."""
    try:
        yield
    except DAMAGE as error:
        raise OSError(f"it is damaged: {error}") from error
