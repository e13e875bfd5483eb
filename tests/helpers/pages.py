"""A page or a chart read again: its elements, and the lines, bands and shades of a chart."""

import re
from html.parser import HTMLParser

from scripts.drawing.charts import AREA, HEIGHT, WIDTH

# The area of a chart's curves, from the upper left corner.
LEFT, RIGHT = WIDTH * AREA[0], WIDTH * (AREA[0] + AREA[2])
TOP, BOTTOM = HEIGHT * (1 - AREA[1] - AREA[3]), HEIGHT * (1 - AREA[1])
VOID = {"meta", "input", "img"}


class Reader(HTMLParser):
    """The elements of a page: (tag, attributes, text); insists that every element is closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.stack = [], []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names))
        self.elements.append([tag, dict(attributes), ""])
        if tag not in VOID:
            self.stack.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        for element in self.stack:
            element[2] += data

    def all(self, tag):
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]


def drawn(read, style):
    """[(points, style)] of the paths in whose style these words stand."""
    return [
        ([(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", a["d"])], a["style"])
        for a, _ in read.all("path")
        if re.search(style, a["style"])
    ]


LINE, BAND, DASH, SHADE = r"stroke-width: 2\b", r"opacity: 0.18\b", r"stroke-width: 4\b", r"; opacity: 0.(35|225)\b"


def level(part):
    """The height of a share of the axis."""
    return BOTTOM - (BOTTOM - TOP) * part
