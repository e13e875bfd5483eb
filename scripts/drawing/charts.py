"""Curves over the epochs as inline SVG: a few kilobytes each, in the page's own colours and fonts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 470, 10, 212  # of the area of the curves


@dataclass(frozen=True)
class Curve:
    """One value an epoch, None where there is none: the mean over seeds, and their range."""

    name: str
    colour: str
    mean: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]
    open: Sequence[float] = ()  # the share of seeds whose prime learning window was open


def chart(curves: Sequence[Curve], y_label: str, description: str, log: bool = False) -> Markup:
    """Lines with bands from the lowest to the highest seed; open windows shaded, each curve's in its own strip.

    `description` is what a screen reader says. `log`: a logarithmic axis of decades, else 0 to 100.
    """
    count = len(curves[0].mean)
    values = [v for curve in curves for v in (*curve.low, *curve.high) if v is not None and (v > 0 or not log)]
    bottom, top, ticks = decades(values) if log else (0.0, 100.0, [(v, str(v)) for v in range(0, 101, 20)])

    def x(epoch: float) -> float:
        return LEFT + (RIGHT - LEFT) * (epoch - 0.5) / count

    def y(value: float) -> float:
        part = (math.log10(value) if log else value) - bottom
        return BOTTOM - (BOTTOM - TOP) * part / (top - bottom)

    def points(values: Sequence[float | None]) -> list[list[str]]:
        """Stretches of drawable points, which gaps part."""
        stretches: list[list[str]] = [[]]
        for epoch, value in enumerate(values, 1):
            if value is None or (log and value <= 0):
                stretches.append([])
            else:
                stretches[-1].append(f"{x(epoch):.1f},{y(value):.1f}")
        return [stretch for stretch in stretches if stretch]

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">']
    for place, curve in enumerate(curves):
        strip = (BOTTOM - TOP) / len(curves)
        for epoch, share in enumerate(curve.open, 1):
            if share:
                parts.append(
                    f'<rect x="{x(epoch - 0.5):.1f}" y="{TOP + place * strip:.1f}" width="{x(1) - x(0):.1f}" '
                    f'height="{strip:.1f}" fill="{curve.colour}" opacity="{0.3 * share:.2f}"/>'
                )
    for value, text in ticks:
        height = BOTTOM - (BOTTOM - TOP) * (value - bottom) / (top - bottom)
        parts.append(f'<path class="grid" d="M{LEFT} {height:.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{text}</text>')
    for epoch in range(step := whole_step(count), count + 1, step):
        parts.append(f'<text x="{x(epoch):.1f}" y="{BOTTOM + 16}" text-anchor="middle">{epoch}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">epoch</text>')
    middle = (TOP + BOTTOM) / 2
    parts.append(
        f'<text transform="translate(12 {middle:.0f})rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    for curve in curves:
        for low, high in zip(points(curve.low), points(curve.high), strict=True):
            if low != high:
                parts.append(f'<polygon points="{" ".join(low + high[::-1])}" fill="{curve.colour}" opacity="0.18"/>')
        for stretch in points(curve.mean):
            parts.append(f'<polyline points="{" ".join(stretch)}" stroke="{curve.colour}"/>')
            if len(stretch) == 1:
                parts.append('<circle cx="{}" cy="{}" r="2.5" fill="{}"/>'.format(*stretch[0].split(","), curve.colour))
    return Markup("".join(parts) + "</svg>")


def decades(values: Sequence[float]) -> tuple[float, float, list[tuple[float, str]]]:
    """The axis from one power of ten to another that holds the values, as logarithms, and its ticks."""
    low = math.floor(math.log10(min(values, default=1.0)))
    high = max(low + 1, math.ceil(math.log10(max(values, default=1.0))))
    step = math.ceil((high - low) / 6)
    return low, high, [(power, f"{10.0**power:g}") for power in range(low, high + 1, step)]


def whole_step(count: int) -> int:
    """1, 2, 5, 10, ...: a distance between epochs' numbers that leaves ten of them at most."""
    return next(step for power in range(9) for step in (10**power, 2 * 10**power, 5 * 10**power) if count / step <= 10)
