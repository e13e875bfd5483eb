"""The one writer of tables: what is read again is what was written, in every form, whatever signs are in it."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from scripts.results.render import FORMS, Cell, escape, render

HEADER = ["row", "accuracy", "macro_f1"]
ODD = "a|b *c* _d_ e_f `g` <h> & \\ {i} 50% #1 ~ ^ $ \"j\" 'k'"
ROWS = [[ODD, Cell("1.0 +- 0.5", "best"), Cell(2.5, "second")], ["plain", "3", None]]


def unmarked(text):
    """What Markdown shows of a cell."""
    return re.sub(r"\\([\\`*_{}\[\]<>()#+\-.!|])", r"\1", re.sub(r"^\*\*(.*)\*\*$|^<u>(.*)</u>$", r"\1\2", text))


def test_markdown():
    lines = render(HEADER, ROWS, "md").splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert cells[0] == HEADER and cells[1] == ["---"] * 3
    assert cells[2][1:] == ["**1.0 +- 0.5**", "<u>2.5</u>"]
    assert [unmarked(cell) for cell in cells[2]] == [ODD, "1.0 +- 0.5", "2.5"]
    # No sign is left that Markdown would take for its own; an underscore within a word is none.
    assert r"a\|b \*c\* \_d\_ e_f \`g\` \<h> & \\ {i}" in lines[2]
    assert render(["a"], [["two\nlines"]], "md") == "| a |\n| --- |\n| two lines |\n"


def test_csv_is_read_again_in_full():
    third = 1 / 3
    text = render(["name", "value", "none"], [[ODD, Cell(third, "best"), None], ["two\nlines", "x,y", ""]], "csv")
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read == [["name", "value", "none"], [ODD, repr(third), ""], ["two\nlines", "x,y", ""]]


class Cells(HTMLParser):
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found, self.label = [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.label = dict(attributes)["aria-label"]
        if tag in ("th", "td"):
            self.found.append([tag, dict(attributes), ""])

    def handle_data(self, data):
        if self.found and data.strip():
            self.found[-1][2] += data


def test_html():
    read = Cells(render(HEADER, ROWS, "html", f"{ODD} +- 1"))
    assert read.label == f"{ODD} ± 1"
    assert [text for *_, text in read.found] == [*HEADER, ODD, "1.0 ± 0.5", "2.5", "plain", "3", "None"]
    assert [attributes.get("class") for tag, attributes, _ in read.found if tag == "td"] == [
        "best",
        "second",
        None,
        None,
    ]
    assert [attributes["scope"] for tag, attributes, _ in read.found if tag == "th"] == ["col"] * 3 + ["row"] * 2


def test_latex_marks_and_escapes():
    text = render(HEADER, ROWS, "tex", ODD)
    assert r"\textbf{1.0 $\pm$ 0.5} & \underline{2.5} \\" in text and r"macro\_f1 \\" in text
    assert r"\caption{a|b *c* \_d\_" in text and r"\begin{tabular}{lrr}" in text


@pytest.mark.parametrize("form", FORMS)
def test_a_text_is_escaped_as_a_cell_is(form):
    assert escape("a_b <c> & d", form) in render(["x"], [["a_b <c> & d"]], form)
