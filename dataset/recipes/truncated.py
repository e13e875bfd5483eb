"""Whether a sound file is cut off, by the size in its header: decoders take such a file for a shorter sound."""

import os
from pathlib import Path
from typing import BinaryIO

# Sizes from here on, and 0, stand for one that the writer did not know yet: sox, arecord, ffmpeg into a pipe.
UNKNOWN_SIZE = 0x7FFF0000
SLACK = 8  # bytes: some writers count a byte of padding that is not there, others the header's first eight twice


def truncation(file: Path | BinaryIO) -> str | None:
    """What is there of a sound file that is cut off, in words; None for a whole one, or where no header tells."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return truncation(opened)
    declared, size = declared_size(file.read(28)), file.seek(0, os.SEEK_END)
    file.seek(0)
    return f"truncated: {size} of {declared} bytes" if declared > size + SLACK else None


def declared_size(head: bytes) -> int:
    """Bytes of a WAV (RIFF, RIFX, RF64, W64), AIFF or AU file by its first 28; 0 for others, and sizes left open."""
    kind, size = head[:4], head[4:8]
    if kind == b"RF64":
        return int.from_bytes(head[20:28], "little") + 8
    if kind == b"riff":
        return int.from_bytes(head[16:24], "little")
    if kind == b".snd":
        header, size = int.from_bytes(size, "big"), head[8:12]
    elif kind in (b"RIFF", b"RIFX", b"FORM"):
        header = 8
    else:
        return 0
    size = int.from_bytes(size, "little" if kind == b"RIFF" else "big")
    return size + header if 0 < size < UNKNOWN_SIZE else 0
