"""The few numbers at the top of the page: what the run has gained and forgotten."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ontogeny.report.facts import Json, RunFacts, StageFacts
from ontogeny.report.matrix_table import headline_metrics

MOST = 12


def headlines(run: RunFacts) -> list[Json]:
    """Return name, value, detail and verdict of each number, those of the matrix last."""
    own = {stage.name: list(_comparison(stage)) for stage in run.stages}
    compared = {name for name, found in own.items() if found}
    ours = [each for found in own.values() for each in found]
    return [*ours, *_of_matrix(run.matrix, compared)][:MOST]


def _comparison(stage: StageFacts) -> Iterator[Json]:
    """Yield what a stage has measured against the model that it was given."""
    for name, metric in stage.metrics.get("forgetting", {}).items():
        what, _, source = name.partition("/")
        if what not in {"gain", "forgetting"}:
            continue
        before, after = _pair(stage, source or None, metric["value"])
        good = metric["value"] > 0 if what == "gain" else metric["value"] <= 0
        yield {
            "name": f"{stage.name}: {what}" + (f" on {source}" if source else ""),
            "value": f"{metric['value']:+.1%}",
            "detail": f"bits per byte {before} → {after}" if before else "",
            "verdict": "good" if good else "bad",
        }


def _pair(stage: StageFacts, source: str | None, change: float) -> tuple[str, str]:
    """Return bits per byte before and after: of a source, or of the one that changed so much."""
    found = stage.metrics["forgetting"]
    for name, metric in found.items():
        what, _, of = name.partition("/")
        after = found.get(f"bits_per_byte_after/{of}")
        if what != "bits_per_byte_before" or after is None:
            continue
        rise = after["value"] / metric["value"] - 1
        if of == source or (source is None and abs(rise - change) < 1e-9):
            return f"{metric['value']:.3f}", f"{after['value']:.3f}"
    return "", ""


def _of_matrix(matrix: Json, compared: Collection[str]) -> Iterator[Json]:
    """Yield gain (by source, where there are several) and forgetting of every stage's metric.

    Stages that have measured their gain themselves are left out there.
    """
    shown = headline_metrics(matrix)
    parted = {(stage, evaluator) for stage, evaluator, name in shown if "/" in name}
    for what in ("gain", "forgetting"):
        for row in matrix.get("summary", []):
            suite, name = (row["stage"], row["evaluator"]), row["metric"]
            by_source = what == "gain" and suite in parted
            told = (*suite, name) in shown and ("/" in name) == by_source
            if told and what in row and not (what == "gain" and row["stage"] in compared):
                yield _number(row, what, row[what])


def _number(row: Json, what: str, value: float) -> Json:
    good = value > 0 if what == "gain" else value <= 0
    detail = "against the checkpoint before" if what == "gain" else "by the last checkpoint"
    if not row.get(f"{what}_is_clear", True):
        detail += ", within the 95 % interval"
    return {
        "name": f"{row['stage']}: {what} in {row['metric']}",
        "value": f"{value:+.3g}",
        "detail": f"{row['unit']}, {detail}" if row["unit"] != "1" else detail,
        "verdict": "" if "within" in detail else "good" if good else "bad",
    }
