"""The one writer of tables: a header and rows of cells as Markdown, LaTeX, CSV or HTML."""

import csv
import html
import io
import re
import statistics
from collections.abc import Sequence
from typing import NamedTuple

FORMS = ("md", "tex", "csv", "html")


class Cell(NamedTuple):
    """A value in a table, and its mark: "best", "second" or "" for neither."""

    value: object
    mark: str = ""


def render(header: Sequence[str], rows: Sequence[Sequence[object]], form: str, caption: str = "") -> str:
    """The table in one of FORMS, ending with a line break.

    A row is made of cells, or of bare values where nothing is marked. LaTeX shows the caption above the table, HTML
    says it to a screen reader; Markdown and CSV have none. CSV is for programs: numbers in full, None empty, no marks.
    """
    cells = [[value if isinstance(value, Cell) else Cell(value) for value in row] for row in rows]
    return WRITERS[form](header, cells, caption)


def summary(values: Sequence[float | None], digits: int = 1) -> str:
    """Mean +- standard deviation of the seeds' numbers, the mean alone of one; - if a number is missing."""
    if not values or None in values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.{digits}f}"


def escape(text: str, form: str) -> str:
    """Text that means itself in one of FORMS, whatever signs are in it."""
    return ESCAPES[form](text)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    style = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}
    body = [[style[cell.mark].format(_markdown_text(str(cell.value))) for cell in row] for row in rows]
    lines = [list(map(_markdown_text, header)), ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _markdown_text(text: str) -> str:
    """An underscore within a word is no emphasis and stays as it is."""
    return re.sub(r"([\\*|<`]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text).replace("\n", " ")


def _latex(header: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    style = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
    body = [[style[cell.mark] % _latex_text(str(cell.value)) for cell in row] for row in rows]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(map(_latex_text, header)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_text(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(signs.get(sign, sign) for sign in text).replace("+-", r"$\pm$")


def _csv(header: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows([header, *([cell.value for cell in row] for row in rows)])
    return file.getvalue()


def _html(header: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    """The first cell of a row is its heading; a mark is the cell's class."""
    lines = [f'<table aria-label="{_html_text(caption)}">']
    lines += ["<thead><tr>" + "".join(f'<th scope="col">{_html_text(name)}</th>' for name in header) + "</tr></thead>"]
    lines += ["<tbody>"]
    for first, *others in rows:
        data = (f"<td{f' class={cell.mark!r}' * bool(cell.mark)}>{_html_text(str(cell.value))}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{_html_text(str(first.value))}</th>{"".join(data)}</tr>')
    return "\n".join([*lines, "</tbody>", "</table>"]) + "\n"


def _html_text(text: str) -> str:
    return html.escape(text).replace("+-", "±")


WRITERS = dict(zip(FORMS, (_markdown, _latex, _csv, _html), strict=True))
ESCAPES = dict(zip(FORMS, (_markdown_text, _latex_text, str, _html_text), strict=True))
