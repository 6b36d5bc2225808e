"""`sweep.html`: one self-contained page of a sweep, drawn without scripts, light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ontogeny.sweep import Job, Results

WIDTH, HEIGHT, MARGIN = 960, 360, 110  # of a drawing, in its own units
LOGARITHMIC = 20  # ratio of the largest to the smallest value from which an axis is logarithmic
GAIN, FORGETTING = "forgetting/gain/", "forgetting/forgetting"
STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --dim: #6a7078; --line: #4878a8; --best: #c2410c;
  --paper: #fff; --rule: #d7dbe0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --dim: #9aa1aa; --line: #7fb0e0;
  --best: #fb923c; --paper: #15181c; --rule: #343a42; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
code { overflow-wrap: anywhere; } .best { color: var(--best); font-weight: 600; }
svg { width: 100%; min-width: 40rem; height: auto; } svg text { fill: var(--ink); font-size: 13px; }
svg .dim { fill: var(--dim); } svg .axis { stroke: var(--rule); }
svg .job { fill: none; stroke: var(--line); stroke-opacity: .55; stroke-width: 1.5; }
svg .job.top { stroke: var(--best); stroke-opacity: 1; stroke-width: 3; }
svg .front { fill: none; stroke: var(--dim); stroke-dasharray: 5 4; }
svg .dot { fill: var(--line); } svg .dot.top { fill: var(--best); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--rule); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class Axis:
    """Where a value stands on an axis: 0 to 1."""

    label: str
    place: Callable[[str], float | None]
    low: str
    high: str


def page(results: Results) -> str:
    """Return the page of a sweep."""
    body = [f"<h1>Sweep <code>{escape(str(results.folder))}</code></h1>", *_summary(results)]
    if len(results.jobs) > 1 and results.ranked:
        body += ["<h2>All jobs</h2>", _parallel(results)]
    pair = _pair(results)
    if pair is not None:
        body += [_frontier_heading(pair), _scatter(results, pair)]
    body += ["<h2>Table</h2>", _table(results)]
    title = escape(f"sweep {results.folder.name}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{STYLE}</style></head>\n'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _summary(results: Results) -> Iterator[str]:
    counts: dict[str, int] = {}
    for job in results.jobs:
        counts[job.state] = counts.get(job.state, 0) + 1
    listed = ", ".join(f"{count} {state}" for state, count in counts.items())
    yield f"<p>{len(results.jobs)} jobs: {escape(listed)}.</p>"
    best = results.best
    if best is None:
        yield "<p>No job has measured what would decide between them.</p>"
        return
    values = ", ".join(
        f"{escape(metric)} {value:.4g}"
        for metric in results.metrics
        if (value := results.value(best, metric)) is not None
    )
    yield f'<p><span class="best">Best: job {escape(best.name)}</span>, {values}<br>'
    yield f"<code>{escape(_settings(results, best))}</code></p>"
    if best.checkpoint is not None:
        yield f"<p>Its checkpoint: <code>{escape(str(best.checkpoint))}</code></p>"


def _settings(results: Results, job: Job) -> str:
    return " ".join(f"{key}={job.overrides.get(key, '')}" for key in results.swept)


def _parallel(results: Results) -> str:
    """Draw every job as a line across what was swept and what was measured."""
    axes = [
        _axis(key, [job.overrides.get(key, "") for job in results.ranked])
        for key in _shown(results)
    ]
    axes += [
        _axis(metric, [_number(results.value(job, metric)) for job in results.ranked])
        for metric in results.metrics
    ]
    step = (WIDTH - 2 * MARGIN) / max(1, len(axes) - 1)
    xs = [MARGIN + number * step for number in range(len(axes))]
    parts = [_axis_drawn(axis, x) for axis, x in zip(axes, xs, strict=True)]
    for job in reversed(results.ranked):  # the best on top
        values = [job.overrides.get(key, "") for key in _shown(results)]
        values += [_number(results.value(job, metric)) for metric in results.metrics]
        parts.append(_line(job, values, axes, xs, is_best=job is results.best))
    return _svg("One line for each job, the best one thick", parts)


def _shown(results: Results) -> list[str]:
    return results.swept[:7]  # more axes cannot be read


def _line(
    job: Job, values: Sequence[str], axes: Sequence[Axis], xs: Sequence[float], *, is_best: bool
) -> str:
    places = [axis.place(value) for axis, value in zip(axes, values, strict=True)]
    points = " ".join(
        f"{x:.1f},{_y(place):.1f}" for x, place in zip(xs, places, strict=True) if place is not None
    )
    css = "job top" if is_best else "job"
    title = escape(f"job {job.name}: {', '.join(values)}")
    return f'<polyline class="{css}" points="{points}"><title>{title}</title></polyline>'


def _axis_drawn(axis: Axis, x: float) -> str:
    top, bottom = _y(1), _y(0)
    label = escape(axis.label if len(axis.label) <= 28 else f"…{axis.label[-27:]}")
    return (
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        f'<text x="{x:.1f}" y="{top - 26}" text-anchor="middle">{label}'
        f"<title>{escape(axis.label)}</title></text>"
        f'<text class="dim" x="{x:.1f}" y="{top - 8}" text-anchor="middle">{escape(axis.high)}'
        f'</text><text class="dim" x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">'
        f"{escape(axis.low)}</text>"
    )


def _pair(results: Results) -> tuple[str, str] | None:
    """Return what the frontier is drawn of: two metrics, or gain against forgetting."""
    if len(results.metrics) > 1:
        return results.metrics[0], results.metrics[1]
    names = {name.partition("/")[2] for job in results.ranked for name in job.metrics}
    gain = next((name for name in sorted(names) if name.startswith(GAIN)), None)
    return None if gain is None or FORGETTING not in names else (FORGETTING, gain)


def _frontier_heading(pair: tuple[str, str]) -> str:
    if pair[0] == FORGETTING:
        return "<h2>Gain on the domain against forgetting</h2>"
    return f"<h2>{escape(pair[1])} against {escape(pair[0])}</h2>"


def _scatter(results: Results, pair: tuple[str, str]) -> str:
    """Draw jobs as points of two metrics, and the frontier that no other job is beyond."""
    measured = [
        (job, f"{x:g}", f"{y:g}")
        for job in results.ranked
        if (x := results.value(job, pair[0])) is not None
        and (y := results.value(job, pair[1])) is not None
    ]
    across = _axis(pair[0], [x for _, x, _ in measured])
    upward = _axis(pair[1], [y for _, _, y in measured])
    placed = {
        job.name: (MARGIN + (across.place(x) or 0) * (WIDTH - 2 * MARGIN), _y(upward.place(y) or 0))
        for job, x, y in measured
    }
    front = sorted(placed[job.name] for job in results.frontier(list(pair)) if job.name in placed)
    parts = [_frame(across, upward)]
    parts.append(
        f'<polyline class="front" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in front)}"/>'
    )
    for job, across_value, upward_value in measured:
        left, top = placed[job.name]
        css, size = ("dot top", 8) if job is results.best else ("dot", 5)
        values = f"{pair[0]} {across_value}, {pair[1]} {upward_value}"
        title = f"job {job.name}: {values}; {_settings(results, job)}"
        parts.append(
            f'<circle class="{css}" cx="{left:.1f}" cy="{top:.1f}" r="{size}"><title>'
            f'{escape(title)}</title></circle><text x="{left + 10:.1f}" y="{top - 6:.1f}">'
            f"{escape(job.name)}</text>"
        )
    return _svg("One point for each job; the dashed line joins those that none is beyond", parts)


def _frame(across: Axis, upward: Axis) -> str:
    left, right, top, bottom = MARGIN, WIDTH - MARGIN, _y(1), _y(0)
    return (
        f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom + 8}" y2="{bottom + 8}"/>'
        f'<line class="axis" x1="{left - 8}" x2="{left - 8}" y1="{top}" y2="{bottom}"/>'
        f'<text x="{(left + right) / 2}" y="{bottom + 44}" text-anchor="middle">'
        f"{escape(across.label)}</text>"
        f'<text class="dim" x="{left}" y="{bottom + 26}">{escape(across.low)}</text>'
        f'<text class="dim" x="{right}" y="{bottom + 26}" text-anchor="end">{escape(across.high)}'
        f'</text><text x="{left - 8}" y="{top - 26}">{escape(upward.label)}</text>'
        f'<text class="dim" x="{left - 12}" y="{bottom}" text-anchor="end">{escape(upward.low)}'
        f'</text><text class="dim" x="{left - 12}" y="{top + 4}" text-anchor="end">'
        f"{escape(upward.high)}</text>"
    )


def _table(results: Results) -> str:
    heads = ["job", "state", *results.metrics, *results.swept, "reason"]
    rows = ["".join(f'<th scope="col">{escape(head)}</th>' for head in heads)]
    for job in results.jobs:
        cells = [f"<td>{escape(cell)}</td>" for cell in (job.name, job.state)]
        cells += [
            f'<td class="number">{_number(results.value(job, metric))}</td>'
            for metric in results.metrics
        ]
        cells += [f"<td>{escape(job.overrides.get(key, ''))}</td>" for key in results.swept]
        cells.append(f"<td>{escape(job.reason)}</td>")
        rows.append("".join(cells))
    best = results.best
    marks = ["", *(' class="best"' if job is best else "" for job in results.jobs)]
    lines = "".join(f"<tr{mark}>{row}</tr>" for mark, row in zip(marks, rows, strict=True))
    return f'<div class="scroll" tabindex="0"><table>{lines}</table></div>'


def _axis(label: str, values: Sequence[str]) -> Axis:
    """Return an axis of numbers where all values are some, else one place for each value."""
    numbers = [number for value in values if (number := _parsed(value)) is not None]
    if values and len(numbers) == len([value for value in values if value]):
        return _numeric_axis(label, numbers)
    known = sorted(set(values))
    places = {value: (number + 0.5) / len(known) for number, value in enumerate(known)}
    return Axis(label, places.get, known[0], known[-1])


def _numeric_axis(label: str, numbers: Sequence[float]) -> Axis:
    low, high = min(numbers), max(numbers)
    is_log = low > 0 and high / low >= LOGARITHMIC
    scale = math.log if is_log else float

    def place(value: str) -> float | None:
        number = _parsed(value)
        if number is None:
            return None
        return 0.5 if high == low else (scale(number) - scale(low)) / (scale(high) - scale(low))

    return Axis(label, place, f"{low:.4g}", f"{high:.4g}")


def _parsed(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _y(place: float) -> float:
    return HEIGHT - 60 - place * (HEIGHT - 120)


def _svg(label: str, parts: Sequence[str]) -> str:
    return (
        f'<div class="scroll" tabindex="0"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg></div>'
    )
