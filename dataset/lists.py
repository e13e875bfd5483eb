"""The one reader of lists in text files: split files, class names, jsonl; the preparations read theirs by it, too.

UTF-8 with or without a byte order mark. A line ends at a line feed, with or without a carriage return before it, and
nowhere else: U+2028 and U+0085, at which str.splitlines cuts as well, belong to the text. Blanks (ASCII's) around a
line or a field do not count, nor do blank lines.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from string import whitespace

from utils.errors import DataError


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, each with its number, which begins at 1.

    Raises:
        DataError: if the file cannot be read or is not UTF-8.
    """
    lines = ((number, line.strip(whitespace)) for number, line in enumerate(read_text(path).split("\n"), 1))
    return [(number, line) for number, line in lines if line]


def read_classes(path: Path, remedy: str) -> list[str]:
    """The class names of a classes.txt, in the order of their numbers.

    Raises:
        DataError: with the remedy, if there are not two or more of them, each once.
    """
    try:
        names = [line for _, line in read_lines(path)]
    except DataError as error:
        raise DataError(f"{error}: {remedy}") from None
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"{path} must hold two class names or more, each once, one a line: {remedy}")
    return names


def repeated(names: Iterable[str]) -> list[str]:
    """The names that are there more than once, in the order in which they come first."""
    return [name for name, times in Counter(names).items() if times > 1]


def read_fields(path: Path) -> list[tuple[int, list[str]]]:
    """The fields of the rows of a CSV file that are not blank, each row with the number of its last line.

    A field may be quoted, as CSV has it.

    Raises:
        DataError: if the file cannot be read, is not UTF-8 or not CSV.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
    try:
        rows = [(reader.line_num, [field.strip(whitespace) for field in row]) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file ({error}): write it again") from None
    return [(number, row) for number, row in rows if any(row)]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises DataError if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a UTF-8 text ({error}): save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror})") from error
