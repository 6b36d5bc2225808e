"""`ontogeny show CHECKPOINT`: what a checkpoint is and where it comes from, drawn as a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from ontogeny.checkpoint import checkpoint_digest, checkpoint_of, read_lineage, read_object
from ontogeny.errors import CheckpointError
from ontogeny.lineage import chain, inputs_of
from ontogeny.weights import count_parameters

SHOWN = 6  # metrics of a stage; the others are counted
Json = Mapping[str, object]


def show(folder: str) -> str:
    """Return a description of a checkpoint folder; raise CheckpointError if it is none."""
    path = checkpoint_of(folder)
    if not (path / "config.json").exists():
        msg = f"{folder} is no checkpoint: it has no config.json"
        raise CheckpointError(msg)
    config = read_object(path / "config.json")
    lineage = read_lineage(path)
    architecture = ", ".join(cast("list[str]", config.get("architectures") or ["?"]))
    lines = [
        f"checkpoint {path}",
        f"  model      {architecture} ({config.get('model_type')})",
        f"  size       {count_parameters(path):,} parameters, {_megabytes(path):.1f} MB on disk",
        f"  vocabulary {config.get('vocab_size', '?')}",
        f"  digest     {_digest(path)}",
    ]
    if not lineage:
        return "\n".join([*lines, "  lineage    none: not written by Ontogeny"])
    versions = cast("dict[str, str]", lineage.get("versions", {}))
    lines.append("  versions   " + ", ".join(f"{name} {each}" for name, each in versions.items()))
    lines.append(f"  key        {lineage.get('key')}")
    return "\n".join([*lines, "", *draw(chain(lineage))])


def draw(stages: Sequence[Json]) -> Iterator[str]:
    """Yield the lines of a graph: a stage at each knot, what it was given and read beside it."""
    known = {str(stage.get("key")): str(stage.get("stage")) for stage in stages}
    first = stages[0]
    yield f"○ {_start(first)}"
    for number, stage in enumerate(stages):
        yield "│"
        yield f"● {stage.get('stage')}, {stage.get('steps')} steps"
        bar = "│" if number + 1 < len(stages) else " "
        last = ""
        for label, text in _beside(stage, known, "" if number else "model.source"):
            yield f"{bar}   {'' if label == last else label:<8} {text}"
            last = label


def _start(stage: Json) -> str:
    parent = stage.get("parent")
    return f"model {parent}" if parent else "random weights"


def _beside(stage: Json, known: Mapping[str, str], said: str) -> Iterator[tuple[str, str]]:
    """Yield label and text of each thing that there is to say of a stage; not the option `said`."""
    for option, given in inputs_of(stage).items():
        if option != said:
            name = known.get(str(given.get("key")))
            yield option.removesuffix(".source"), name or str(given["source"])
    for source in cast("list[dict[str, object]]", stage.get("data", [])):
        held_out = f"{source.get('rows')} rows, {source.get('held_out')} held out"
        share = source.get("share")
        part = f", {share:.1%} of the tokens" if isinstance(share, float) and share < 1 else ""
        yield "data", f"{source.get('name')}: {source.get('path')} ({held_out}{part})"
    for text in _metrics(stage):
        yield "measured", text
    yield "key", str(stage.get("key"))


def _metrics(stage: Json) -> Iterator[str]:
    found = cast("dict[str, dict[str, dict[str, float]]]", stage.get("metrics", {}))
    every = [
        (f"{evaluator}/{name}", m) for evaluator in found for name, m in found[evaluator].items()
    ]
    whole = [(name, metric) for name, metric in every if name.count("/") == 1] or every
    for name, metric in whole[:SHOWN]:
        interval = ""
        if metric.get("low") is not None and metric.get("high") is not None:
            interval = f" ({metric['low']:.4g} to {metric['high']:.4g})"
        yield f"{name} {metric['value']:.4g}{interval}"
    if more := len(every) - len(whole[:SHOWN]):
        yield f"and {more} more, in lineage.json"


def _digest(folder: Path) -> str:
    try:
        return checkpoint_digest("the checkpoint", str(folder.absolute()))
    except CheckpointError as error:  # of an adapter, whose base is not there
        return f"unknown: {error}"


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
