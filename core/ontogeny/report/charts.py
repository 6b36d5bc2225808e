"""Line charts as inline SVG: no script, colours from the page's style, words for screen readers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ontogeny.report.section import Point

# Units of the viewBox: about a phone's width, so that letters stay as large as those around.
WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 12, 40
COLOURS = 6  # lines of one chart, as the style has colours
MOST_POINTS = 240  # of a line; more are drawn as the means of so many stretches
FEW_POINTS = 30  # of a line that shows each of its points


@dataclass(frozen=True)
class Scale:
    """Maps numbers to places along an axis."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def line_chart(
    title: str, lines: Mapping[str, Sequence[Point]], *, x_label: str = "step", y_label: str = ""
) -> Markup:
    """Return a figure with one line per name; points that are not finite are left out.

    Empty where there is no point to draw.
    """
    finite = {
        name: [point for point in points if all(map(math.isfinite, point))]
        for name, points in lines.items()
    }
    drawn = {name: points for name, points in finite.items() if points}
    if not drawn:
        return Markup()
    shown = dict(list(drawn.items())[:COLOURS])
    x = _scale([p[0] for each in shown.values() for p in each], LEFT, WIDTH - RIGHT)
    y = _scale([p[1] for each in shown.values() for p in each], HEIGHT - BOTTOM, TOP)
    parts = [*_axes(x, y), *_names(x_label, y_label)]
    for number, points in enumerate(shown.values()):
        parts += _line(number, points, x, y)
    label = f"{title}: {'; '.join(_in_words(name, each) for name, each in shown.items())}"
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
    more = f" (and {len(drawn) - len(shown)} more)" if len(drawn) > len(shown) else ""
    caption = f"<figcaption>{escape(title)}{more}</figcaption>"
    return Markup(f"<figure>{caption}{svg}{_legend(list(shown))}</figure>")  # noqa: S704  escaped


def thinned(points: Sequence[Point]) -> list[tuple[float, float, float, float]]:
    """Return (x, mean, least, most) of at most MOST_POINTS stretches of equal length."""
    size = max(1, math.ceil(len(points) / MOST_POINTS))
    found = []
    for first in range(0, len(points), size):
        stretch = points[first : first + size]
        values = [value for _, value in stretch]
        x = stretch[len(stretch) // 2][0]
        found.append((x, math.fsum(values) / len(values), min(values), max(values)))
    return found


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers between two others: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        margin = abs(low) * 0.1 or 0.5
        low, high = low - margin, high + margin
    return Scale(low, high, start, end)


def _axes(x: Scale, y: Scale) -> Iterator[str]:
    for value in ticks(y.low, y.high):
        at = y.at(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text class="y" x="{LEFT - 6}" y="{at + 4:.1f}">{_number(value)}</text>'
    for value in ticks(x.low, x.high, 4):
        at = x.at(value)
        yield f'<text class="x" x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}">{_number(value)}</text>'


def _names(x_label: str, y_label: str) -> Iterator[str]:
    middle = (LEFT + WIDTH - RIGHT) / 2
    name = f"{x_label} · {y_label}" if y_label else x_label
    yield f'<text class="x" x="{middle:.0f}" y="{HEIGHT - 6}">{escape(name)}</text>'


def _line(number: int, points: Sequence[Point], x: Scale, y: Scale) -> Iterator[str]:
    stretches = thinned(points)
    if len(points) > len(stretches):
        edge = [f"{x.at(at):.1f},{y.at(most):.1f}" for at, _, _, most in stretches]
        edge += [f"{x.at(at):.1f},{y.at(least):.1f}" for at, _, least, _ in reversed(stretches)]
        yield f'<polygon class="band c{number}" points="{" ".join(edge)}"/>'
    path = " ".join(f"{x.at(at):.1f},{y.at(mean):.1f}" for at, mean, _, _ in stretches)
    yield f'<polyline class="line c{number}" points="{path}"/>'
    for at, value in points if len(points) <= FEW_POINTS else ():
        told = f"<title>{_number(at)}: {value:.5g}</title>"
        place = f'cx="{x.at(at):.1f}" cy="{y.at(value):.1f}" r="3"'
        yield f'<circle class="c{number}" {place}>{told}</circle>'


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    keys = (f'<li><span class="key c{i}"></span>{escape(n)}</li>' for i, n in enumerate(names))
    return f'<ul class="legend">{"".join(keys)}</ul>'


def _in_words(name: str, points: Sequence[Point]) -> str:
    (first, begins), (last, ends) = points[0], points[-1]
    if len(points) == 1:
        return f"{name} {ends:.4g} at {_number(last)}"
    return f"{name} from {begins:.4g} at {_number(first)} to {ends:.4g} at {_number(last)}"


def _number(value: float) -> str:
    """Return a number as short as it is exact: 1,500, 20k, 3M, 0.25, 1e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.4g}{letter}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
