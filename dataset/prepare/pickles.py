"""Read pickles of number arrays and plain containers without running anything that stands in them.

A pickle is a program: it names the functions that are to rebuild its objects, and may name any. Here no such name is
looked up. The few by which NumPy's arrays, dtypes and scalars are stored stand for the functions below, which write
down what an array is; dicts, lists, tuples, texts and numbers need no name; any other is refused.
"""

import pickle
import re
from pathlib import Path

import numpy as np

from utils.errors import DataError

CODE = re.compile(r"[fiu][1248]|b1|[SU]\d+|O8?")


class Kind:
    """A dtype as a pickle states it: a code such as f8, and the order of its bytes."""

    def __init__(self, code):
        self.code, self.order = code, "|"

    def __setstate__(self, state):
        if state[2] is not None or state[3]:
            raise ValueError("an array of records")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        """NumPy's dtype. Raises ValueError unless it is one of numbers, texts or objects."""
        code = self.code.decode() if isinstance(self.code, bytes) else self.code
        if not isinstance(code, str) or not CODE.fullmatch(code) or self.order not in ("<", ">", "=", "|"):
            raise ValueError(f"an array of type {code!r}")
        return np.dtype(self.order + code)


class Array:
    """An array as a pickle states it; `read` makes it."""

    def __init__(self, shape=None, kind=None, fortran=False, data=None):
        self.shape, self.kind, self.fortran, self.data = shape, kind, fortran, data

    def __setstate__(self, state):
        _, self.shape, self.kind, self.fortran, self.data = state

    def read(self) -> np.ndarray:
        """Raises ValueError, or TypeError, if what is stated is no array."""
        if not isinstance(self.kind, Kind):
            raise ValueError("an array without a type")
        dtype = self.kind.dtype
        if dtype.hasobject:
            array = np.empty(len(self.data), object)
            for i, value in enumerate(self.data):
                array[i] = value
        else:
            # What Python 2 has written is text of one character a byte.
            data = self.data.encode("latin-1") if isinstance(self.data, str) else self.data
            array = np.frombuffer(data, dtype)
        return array.reshape(self.shape, order="F" if self.fortran else "C")


def _array(*_):
    return Array()  # its state follows


def _array_from_buffer(data, kind, shape, order):
    return Array(shape, kind, order == "F", data)


def _kind(code, *_):
    return Kind(code)


def _scalar(kind, data):
    return Array((1,), kind, False, data).read()[0].item()


def _bytes(text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin-1")


NAMES = {
    ("numpy", "ndarray"): "ndarray",  # an argument of _reconstruct, never called
    ("numpy", "dtype"): _kind,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    ("_codecs", "encode"): _bytes,  # how Python 3 writes bytes for Python 2
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, path: Path):
        super().__init__(file, encoding="latin-1")
        self.path = path

    def find_class(self, module, name):
        known = NAMES.get((module.replace("numpy._core.", "numpy.core."), name))
        if known is None:
            raise DataError(
                f"{self.path} asks for {module}.{name}, which no array of numbers needs: it is refused, nothing in it "
                "has been run; get the file from where data/README.md says"
            )
        return known


def load(path: Path):
    """What the pickle holds, with an `Array` in the place of each array.

    Raises:
        DataError: if it names anything that is neither array nor plain container, or is not a whole pickle.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file, path).load()
    except (DataError, OSError):
        raise
    except Exception as error:  # a damaged program fails in any way
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{path} is not a whole pickle of arrays ({reason}): download it again") from error


def as_array(value, name: str) -> np.ndarray:
    """The numbers of an array, or of a list of arrays of one shape; `name` stands in the message if they are none."""
    try:
        if isinstance(value, Array):
            value = value.read()
        if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype.hasobject):
            value = np.stack([as_array(item, name) for item in value])
        array = np.asarray(value)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{name} is not an array of numbers, or its series differ in length ({error})") from error
    if array.dtype.kind not in "fiu":
        raise DataError(f"{name} is not an array of numbers: its type is {array.dtype}")
    return array


def names_of(value, part: str) -> list[str]:
    """Identifiers as texts; one that consists of several values (video, start, end) is joined."""
    try:
        items = value.read() if isinstance(value, Array) else value
        if not isinstance(items, list | tuple | np.ndarray):
            raise TypeError(f"{type(items).__name__}, not a list")
        return [name_of(item) for item in items]
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"the identifiers of {part} cannot be read ({error})") from error


def name_of(item) -> str:
    """An identifier as text; what it consists of is joined by _."""
    if isinstance(item, Array):
        item = item.read()
    if isinstance(item, list | tuple | np.ndarray):
        return "_".join(map(name_of, item))
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
