"""Lists in text files: where a line ends, what counts, and what is refused; the same for every kind of list."""

import json

import pytest
from helpers.instances import make_clips, make_folder, make_hateful_memes, make_ucf101

from dataset import build
from dataset.hateful_memes import read_rows
from dataset.lists import read_fields, read_lines
from dataset.splits import read_split
from engine.parser import parse
from utils.errors import DataError

MARK = b"\xef\xbb\xbf"
# Of what str.splitlines or str.strip make an end or a blank: all of them belong to a name.
INSIDE = [
    "a\u2028b",
    "a\u2029b",
    "a\x85b",
    "a\x1cb",
    "a\x0bb",
    "a\x0cb",
    "\xa0a",
    "a\u3000",
    "a\xa0b",
    "👩\u200d👩\u200d👧",
]


@pytest.mark.parametrize("name", INSIDE, ids=ascii)
@pytest.mark.parametrize("mark", [b"", MARK], ids=["plain", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=repr)
def test_a_line_ends_at_a_line_feed_and_nowhere_else(tmp_path, name, mark, end):
    path = tmp_path / "list"
    path.write_bytes(mark + f"{end} {name}\t{end} {end}z{end}".encode())
    assert read_lines(path) == [(2, name), (4, "z")]
    path.write_bytes(mark + f'{name} , "x, y" {end}{end} \t{end} , {end}"{name}",z'.encode())
    assert read_fields(path) == [(1, [name, "x, y"]), (5, [name, "z"])]


@pytest.mark.parametrize("content", [b"\xff\xfea\n", b"a\xe9\n"], ids=repr)
def test_another_encoding_is_named_with_the_remedy(tmp_path, content):
    path = tmp_path / "list"
    path.write_bytes(content)
    for read in (read_lines, read_fields):
        with pytest.raises(DataError, match=f"{path} is not a UTF-8 text .*: save it as UTF-8") as stopped:
            read(path)
        assert "\n" not in str(stopped.value)


def test_a_folder_in_a_lists_place_is_named(tmp_path):
    with pytest.raises(DataError, match=f"cannot read {tmp_path} .Is a directory"):
        read_lines(tmp_path)


def test_a_split_file_says_which_line_is_wrong(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("a\u2028b,x\n\n \nc,x\n,x\nd\n")
    with pytest.raises(DataError, match="not so in 2: line 5, line 6"):
        read_split(path, ["x"])


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b", "a\u2029b"], ids=ascii)
@pytest.mark.parametrize("mark", [b"", MARK], ids=["plain", "mark"])
def test_texts_of_memes_may_have_any_character(tmp_path, text, mark):
    rows = [{"id": i, "img": f"img/{i}.png", "label": i % 2, "text": text} for i in range(4)]
    path = tmp_path / "train.jsonl"
    path.write_bytes(mark + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    assert [row.text for row in read_rows(path)] == [text] * 4
    path.write_bytes(path.read_bytes() + b"\n{}\n")
    with pytest.raises(DataError, match="not so in 1: line 6"):
        read_rows(path)


LISTS = {
    "folder": (make_folder, ["train.csv", "test.csv", "classes.txt"]),
    "CREMAD": (lambda root: make_clips(root, ("NEU", "HAP"), fps=3), ["train.csv", "test.csv"]),
    "UCF101": (make_ucf101, ["train01.csv", "test01.csv", "classInd.txt"]),
    "HatefulMemes": (make_hateful_memes, ["train.jsonl", "test_seen.jsonl"]),
}


@pytest.mark.parametrize("dataset", LISTS)
def test_every_list_may_be_saved_by_another_editor(tmp_path, dataset):
    make, files = LISTS[dataset]
    root = make(tmp_path / "data")
    args = parse(["--dataset", dataset, "--data_root", str(root)])
    before = build(args, ())
    for name in files:
        lines = (root / name).read_bytes().split(b"\n")
        (root / name).write_bytes(MARK + b"\r\n\r\n".join(lines) + b" \t\r\n")
    after = build(args, ())
    for one, other in ((before.train, after.train), (before.test, after.test)):
        assert (one.names, one.targets) == (other.names, other.targets) and one.names
    assert list(before.classes) == list(after.classes)
