"""The charts of the page: what is drawn stands where its value is."""

import re

import pytest
from helpers.pages import BAND, BOTTOM, DASH, LEFT, LINE, RIGHT, SHADE, TOP, Reader, drawn, level

from scripts.drawing.charts import ACROSS, ROW, TEXT, Curve, Mark, chart, compare


def test_curves_go_through_the_values():
    curve = Curve("audio", "red", [10.0, 100.0, None, 50.0], [0.0, 90.0, None, 50.0], [20.0, 100.0, None, 50.0])
    read = Reader(chart([curve], "accuracy", "words"))
    width = (RIGHT - LEFT) / 4
    ((line, style),) = drawn(read, LINE)  # it ends at the gap
    assert line == [pytest.approx((LEFT + width * (k + 0.5), level(v))) for k, v in enumerate((0.1, 1))]
    assert "stroke: #ff0000" in style
    ((band, _),) = drawn(read, BAND)
    corners = {(LEFT + width * (k + 0.5), level(v)) for k, v in ((0, 0), (0, 0.2), (1, 0.9), (1, 1))}
    assert sorted(set(band)) == [pytest.approx(corner) for corner in sorted(corners)]
    ((dash, _),) = drawn(read, DASH)  # a point alone is seen, too
    assert [y for _, y in dash] == pytest.approx([level(0.5)] * 2)
    assert (dash[0][0] + dash[1][0]) / 2 == pytest.approx(LEFT + 3.5 * width) and dash[1][0] - dash[0][0] > 5


def test_traces_are_drawn_on_decades_and_windows_as_long_as_they_are_open():
    one = Curve("audio", "red", [100.0, 1.0, 0.0], [100.0, 1.0, 0.0], [100.0, 1.0, 0.0], open=[1.0, 0.5, 0.0])
    other = Curve("visual", "blue", [0.1, 0.1, 0.1], [0.1] * 3, [0.1] * 3, open=[0.0, 0.0, 1.0])
    read = Reader(chart([one, other], "trace", "words", log=True))
    heights = [[y for _, y in line] for line, _ in drawn(read, LINE)]
    assert heights == [pytest.approx([level(1), level(2 / 3 - 1 / 3)]), pytest.approx([BOTTOM] * 3)]
    width = (RIGHT - LEFT) / 3
    shades = [
        ([min(x for x, _ in box), max(x for x, _ in box)], [min(y for _, y in box), max(y for _, y in box)], style)
        for box, style in drawn(read, SHADE)
    ]
    assert [x for x, _, _ in shades] == [pytest.approx([LEFT + k * width, LEFT + (k + 1) * width]) for k in range(3)]
    middle = (TOP + BOTTOM) / 2
    wanted = [pytest.approx([middle, BOTTOM])] * 2 + [pytest.approx([TOP, middle])]
    assert [y for _, y, _ in shades] == wanted
    assert [style for *_, style in shades] == [
        "fill: #ff0000; opacity: 0.35", "fill: #ff0000; opacity: 0.225", "fill: #0000ff; opacity: 0.35",
    ]  # fmt: skip
    assert {"0.1", "1", "10", "100"} <= {text for _, text in read.all("text")}


def test_a_band_ends_with_the_axis_and_adds_no_decades():
    def band(low, high, log):
        ((corners, _),) = drawn(Reader(chart([Curve("audio", "red", [10.0, 1.0], low, high)], "y", "words", log)), BAND)
        return sorted(y for _, y in corners)

    assert band([9.0, 1e-7], [11.0, 2.0], log=True) == band([9.0, -1.0], [11.0, 2.0], log=True)
    assert band([9.0, -1.0], [11.0, 2.0], log=True)[-1] == pytest.approx(BOTTOM)
    assert band([9.0, -1.0], [101.0, 2.0], log=False)[::3] == pytest.approx([TOP, BOTTOM])


@pytest.mark.parametrize(
    "values, labels",
    [
        ([0.3, 42.0], ["0.1", "1", "10", "100"]),
        ([100.0], ["100", "1000"]),
        ([0.0], ["1", "10"]),
        ([1e-9, 1e9], ["1e-09", "1e-06", "0.001", "1", "1000", "1e+06", "1e+09"]),
    ],
)
def test_the_axis_of_traces_has_whole_decades(values, labels):
    read = Reader(chart([Curve("audio", "red", values, values, values)], "trace", "words", log=True))
    texts = [text for a, text in read.all("text") if "text-anchor: end" in a["style"]]
    assert texts == labels
    (name,) = (a for a, text in read.all("text") if text == "trace")
    assert 8 < float(name["x"]) <= 12  # at the edge of the picture, whatever the numbers are


@pytest.mark.parametrize("count", [1, 10, 11, 20, 21, 50, 51, 1000])
def test_at_most_ten_epochs_are_numbered(count):
    read = Reader(chart([Curve("audio", "red", [1.0] * count, [1.0] * count, [1.0] * count)], "accuracy", "words"))
    marks = [a for a, text in read.all("text") if text.isdecimal() and "text-anchor: middle" in a["style"]]
    numbers = [int(text) for a, text in read.all("text") if text.isdecimal() and "text-anchor: middle" in a["style"]]
    assert 1 <= len(numbers) <= 10 and all(1 <= number <= count for number in numbers)
    width = (RIGHT - LEFT) / count
    assert [float(a["x"]) for a in marks] == pytest.approx([LEFT + width * (number - 0.5) for number in numbers])


def test_the_page_says_which_black_and_which_grey():
    """Nothing in a chart is drawn in a black that a dark page would swallow, or on a ground of its own."""
    svg = chart([Curve("fused", TEXT, [1.0, 2.0], [1.0, 2.0], [1.5, 3.0])], "accuracy", "words")
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    assert colours == {"none", "currentColor", "var(--faint)", "var(--line)"}
    assert not any("fill" not in a["style"] for a, _ in Reader(svg).all("path"))  # which would be black
    assert "<use" not in svg and " id=" not in svg and "font-family" not in svg


def test_settings_side_by_side_stand_at_their_values():
    fused, part = Mark(60.0, 50.0, 75.0, TEXT), Mark(20.0, 20.0, 20.0, "#ff0000", hollow=True)
    read = Reader(compare([("one", [fused, part]), ("<two>", [fused])], "accuracy (%)", '"said"'))
    left, width = ACROSS
    at = lambda value: left + width * value / 100  # noqa: E731
    bars = [line for line, _ in drawn(read, LINE)]
    assert [[x for x, _ in bar] for bar in bars] == [
        pytest.approx([at(50), at(75)]), pytest.approx([at(20)] * 2), pytest.approx([at(50), at(75)]),
    ]  # fmt: skip
    points = [(points, style) for points, style in drawn(read, "stroke-width: 1.5")]
    middles = [(min(x for x, _ in p) + max(x for x, _ in p)) / 2 for p, _ in points]
    assert middles == pytest.approx([at(60), at(20), at(60)], abs=0.5)
    heights = [sum(y for _, y in bar) / 2 for bar in bars]
    assert heights[0] < heights[1] < heights[2] and heights[2] - heights[0] == pytest.approx(ROW, abs=5)
    assert "fill: var(--page)" in points[1][1] and "fill: currentColor" in points[0][1]
    assert {"one", "<two>"} <= {text for _, text in read.all("text")}
    assert read.all("svg")[0][0]["aria-label"] == '"said"'
    # About 0: what is as far on either side is as far from the middle.
    apart = [("a", [Mark(-10.0, -20.0, 0.0, TEXT)]), ("b", [Mark(10.0, 0.0, 20.0, TEXT)]), ("c", [])]
    (low, _), (high, _) = drawn(Reader(compare(apart, "points", "said", zero=True)), LINE)
    assert low[0][0] - left == pytest.approx(left + width - high[1][0])
    assert low[1][0] == pytest.approx(high[0][0]) == pytest.approx(left + width / 2)
