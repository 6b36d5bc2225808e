"""The stage × suite matrix as a table for people: the metrics that matter first."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ontogeny.report.facts import Json

FIRST = "bits_per_byte"  # comparable between tokenizers, so the one to look at
MOST_PARTS = 4  # sources of a metric that get a column of their own
Key = tuple[str, str, str]  # stage, evaluator, metric


def matrix_table(matrix: Json) -> Json | None:
    """Return heads, rows, reasons, summary and all metrics; None without a matrix."""
    if not matrix.get("cells"):
        return None
    heads = headline_metrics(matrix)
    values = _values(matrix)
    units = {key: metric["unit"] for (_, key), metric in values.items()}
    return {
        "heads": [
            {"suite": f"{stage} · {evaluator}", "metric": metric, "unit": _unit(units[key])}
            for key in heads
            for stage, evaluator, metric in [key]
        ],
        "rows": [
            {"name": checkpoint, "cells": [_cell(values, checkpoint, key) for key in heads]}
            for checkpoint in matrix["checkpoints"]
        ],
        "reasons": list(_reasons(matrix)),
        "summary": list(_summary(matrix, heads)),
        "mean": mean_backward_transfer(matrix, heads),
        "all": [
            (
                checkpoint,
                f"{key[0]} · {key[1]}",
                key[2],
                each["value"],
                _interval(each),
                each["unit"],
            )
            for (checkpoint, key), each in values.items()
        ],
    }


def headline_metrics(matrix: Json) -> list[Key]:
    """Return one metric of each evaluator of each stage, and its values by source if it has any."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in matrix.get("cells", []):
        names = found.setdefault((cell["stage"], cell["evaluator"]), [])
        names += [name for name in cell.get("metrics", {}) if name not in names]
    keys: list[Key] = []
    for (stage, evaluator), names in found.items():
        whole = [name for name in names if "/" not in name] or names
        chosen = FIRST if FIRST in whole else next(iter(whole), None)
        if chosen is not None:
            parts = [name for name in names if name.startswith(f"{chosen}/")]
            shown = [chosen, *(parts if len(parts) <= MOST_PARTS else [])]
            keys += [(stage, evaluator, name) for name in shown]
    return keys


def mean_backward_transfer(matrix: Json, heads: list[Key]) -> str:
    """Return the mean over stages of each metric's backward transfer, in words."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in matrix.get("summary", []):
        value, name = row.get("backward_transfer"), row["metric"]
        whole = "/" not in name and (row["stage"], row["evaluator"], name) in heads
        if whole and value is not None:
            found.setdefault((row["metric"], row["unit"]), []).append(value)
    means = [
        f"{metric} {math.fsum(each) / len(each):+.3g} {_unit(unit)}".rstrip()
        for (metric, unit), each in found.items()
    ]
    return f"Mean backward transfer: {', '.join(means)}." if means else ""


def _values(matrix: Json) -> dict[tuple[str, Key], Json]:
    return {
        (cell["checkpoint"], (cell["stage"], cell["evaluator"], name)): metric
        for cell in matrix["cells"]
        for name, metric in cell.get("metrics", {}).items()
    }


def _cell(values: dict[tuple[str, Key], Json], checkpoint: str, key: Key) -> Json:
    metric, own = values.get((checkpoint, key)), values.get((key[0], key))
    if metric is None:
        return {"value": "–", "note": "", "verdict": "", "own": False}
    cell = {
        "value": f"{metric['value']:.4g}",
        "note": _interval(metric),
        "verdict": "",
        "own": True,
    }
    if checkpoint == key[0] or own is None:
        return cell
    change = metric["value"] - own["value"]
    better = change < 0 if metric["less_is_better"] else change > 0
    word = "better" if better else "worse"
    cell |= {"own": False, "note": f"{change:+.3g}, {word}" if change else "the same"}
    if _is_within(metric["value"], own):
        return {**cell, "note": f"{change:+.3g}, within" if change else "the same"}
    return {**cell, "verdict": "good" if better else "bad"}


def _is_within(value: float, own: Json) -> bool:
    """Say whether a value lies in the 95 % interval of a stage's own, or equals it."""
    if own.get("low") is None or own.get("high") is None:
        return bool(value == own["value"])
    return bool(own["low"] <= value <= own["high"])


def _reasons(matrix: Json) -> Iterator[str]:
    for cell in matrix["cells"]:
        if cell.get("reason"):
            what = (
                f"{cell['evaluator']} of {cell['stage']} on the checkpoint of {cell['checkpoint']}"
            )
            yield f"{what} is not measured: {cell['reason']}"


def _summary(matrix: Json, heads: list[Key]) -> Iterator[tuple[object, ...]]:
    for row in matrix.get("summary", []):
        if (row["stage"], row["evaluator"], row["metric"]) in heads:
            numbers = [row.get(name) for name in ("gain", "backward_transfer", "forgetting")]
            if any(number is not None for number in numbers):
                shown = [None if number is None else f"{number:+.3g}" for number in numbers]
                yield (f"{row['stage']} · {row['evaluator']}", row["metric"], *shown, row["unit"])


def _interval(metric: Json) -> str:
    if metric.get("low") is None or metric.get("high") is None:
        return ""
    return f"{metric['low']:.4g} to {metric['high']:.4g}"


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit
