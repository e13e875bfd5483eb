"""Pickles of arrays are read, of every protocol; those that would run something are refused by name."""

import os
import pickle

import numpy as np
import pytest
from helpers.mosi import multibench, object_array, refusal

from dataset.prepare import pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_arrays_of_every_protocol_and_numpy(tmp_path, protocol, module):
    held = {
        "c": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "texts": np.array(["a", "bé"]),
        "byte texts": np.array([b"a", b"bc"]),
        "objects": np.array([["a", 1], [b"c", None]], object),
        "half": np.float16([0.5]),
    }
    plain = {"scalar": np.float32(0.1), "list": [1, (2.5, "x"), None], "bytes": b"\xff\x00"}
    stored = pickle.dumps(held | plain | {"again": held["c"]}, protocol)
    if protocol < 4:  # names of a fixed length there would have to be counted anew
        stored = stored.replace(b"numpy._core", module)
    (tmp_path / "file.pkl").write_bytes(stored)
    found = pickles.load(tmp_path / "file.pkl")
    for name, array in held.items():
        read = found[name].read()
        assert read.dtype == array.dtype and read.shape == array.shape and np.array_equal(read, array), name
    assert found["again"] is found["c"]
    assert {name: found[name] for name in plain} == plain | {"scalar": float(np.float32(0.1))}


def test_what_python_2_has_written(tmp_path):
    # An array's bytes are a byte string there, which Python 3 would write as a call of _codecs.encode.
    array = np.array([1.5, -2.0, 1e-300])
    rebuild, args, (version, shape, dtype, fortran, raw) = array.__reduce__()
    placeholder = "x" * len(raw)
    stored = pickle.dumps(Calls(rebuild, *args, state=(version, shape, dtype, fortran, placeholder)), 2)
    length = len(raw).to_bytes(4, "little")
    old = stored.replace(b"X" + length + placeholder.encode(), b"T" + length + raw)
    assert old != stored
    (tmp_path / "file.pkl").write_bytes(old)
    assert np.array_equal(pickles.load(tmp_path / "file.pkl").read(), array)


# --- Pickles that would run something


class Calls:
    """Pickled as a call of `function` with `args`, and a `state` given to what it returns."""

    def __init__(self, function, *args, state=None):
        self.call = function, args, state

    def __reduce__(self):
        return self.call


HOSTILE = {
    "posix.system": lambda marker: Calls(os.system, f"touch {marker}"),
    "builtins.eval": lambda marker: Calls(eval, f"open({str(marker)!r}, 'w')"),
    "builtins.getattr": lambda marker: Calls(getattr, "", "join"),
    "numpy.fromfile": lambda marker: Calls(np.fromfile, "/dev/null"),
    "numpy.load": lambda marker: Calls(np.load, "/dev/null"),
    "numpy.savetxt": lambda marker: Calls(np.savetxt, str(marker), [1]),
    "_codecs.decode": lambda marker: Calls(pickle.codecs.decode, b"00", "hex"),
    "collections.OrderedDict": lambda marker: Calls(__import__("collections").OrderedDict),
}


@pytest.mark.parametrize("nested", ["alone", "field", "array"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_would_call_anything_is_refused_by_name(run, tmp_path, name, nested):
    marker = tmp_path / "marker"
    hostile, data = HOSTILE[name](marker), multibench()
    if nested == "alone":
        data = hostile
    elif nested == "field":
        data["test"]["unused"] = [{"deep": (hostile,)}]
    else:
        data["valid"]["id"] = object_array(["a", hostile, "c"])
    message = refusal(run, data)
    asked = message.split("asks for ")[1].split(",")[0]
    assert asked.split(".")[0] in name.split(".")[0] or asked.startswith("numpy"), message
    assert asked.split(".")[-1] == name.split(".")[-1] and "refused" in message
    assert not marker.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("protocol", [0, 2])
def test_the_same_in_old_protocols(run, tmp_path, protocol):
    marker = tmp_path / "marker"
    assert "asks for" in refusal(run, {"train": Calls(os.system, f"touch {marker}")}, protocol=protocol)
    assert not marker.exists()


def program(*lines):
    """A pickle of protocol 0 to 4, opcode by opcode."""
    return b"\x80\x04" + b"".join(lines) + b"."


@pytest.mark.parametrize(
    "stored",
    [
        program(b"cnumpy\nndarray.tofile\n"),  # an attribute of what is allowed
        program(b"\x8c\x05numpy\x8c\x10ndarray.tostring\x93"),
        program(b"cnumpy.core.multiarray\nfromstring\n"),
        program(b"(S'true'\nios\nsystem\n"),  # INST
        program(b"(cposix\nsystem\nS'true'\no"),  # OBJ
        program(b"cevilnumpy._core.multiarray\n_reconstruct\n"),
    ],
    ids=["dotted", "stack", "numpy", "inst", "obj", "prefix"],
)
def test_every_way_to_name_a_function_is_watched(run, tmp_path, stored):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(stored)
    assert "asks for" in refusal(run, path)


@pytest.mark.parametrize(
    "stored",
    [
        program(b"cnumpy\nndarray\n(K\x02tR"),  # calls the class itself
        program(b"cnumpy\nndarray\n)\x81"),  # makes an object of it
        program(b"c_codecs\nencode\n(S'ab'\nS'hex'\ntR"),  # another codec
        program(b"Pnumber\n"),  # a persistent identifier
        program(b"\x82\x07"),  # an extension's number
        b"",
        b"no pickle",
        pickle.dumps(multibench())[:-40],
    ],
    ids=["call", "new", "codec", "persistent", "extension", "empty", "text", "cut"],
)
def test_what_is_no_whole_pickle_of_arrays_is_refused_in_one_line(run, tmp_path, stored):
    path = tmp_path / "odd.pkl"
    path.write_bytes(stored)
    assert "is not a whole pickle of arrays" in refusal(run, path) or "must hold" in refusal(run, path)
    assert not (tmp_path / "out").exists()


def test_bytes_cannot_pass_for_objects_nor_a_shape_for_more_than_there_is():
    kind = pickles.Kind("O8")
    with pytest.raises((TypeError, ValueError)):
        pickles.Array((2,), kind, False, None).read()
    read = pickles.Array((2,), kind, False, b"\x01\x02").read()
    assert read.tolist() == [1, 2]  # numbers, not addresses
    with pytest.raises(ValueError):
        pickles.Array((10**9,), pickles.Kind("f8"), False, b"\x00" * 16).read()
    for code in ("V8", "M8[ns]", "c16", "f16", "i3", 4):
        with pytest.raises(ValueError, match="type"):
            pickles.Array((1,), pickles.Kind(code), False, b"\x00" * 16).read()
