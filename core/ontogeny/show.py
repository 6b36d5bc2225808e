"""`ontogeny show CHECKPOINT`: what a checkpoint is and where it comes from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import cast

from ontogeny.checkpoint import read_lineage, read_object
from ontogeny.errors import CheckpointError


def show(folder: str) -> str:
    """Return a description of a checkpoint folder; raise CheckpointError if it is none."""
    path = Path(folder)
    if not (path / "config.json").exists():
        msg = f"{folder} is no checkpoint: it has no config.json"
        raise CheckpointError(msg)
    config = read_object(path / "config.json")
    lineage = read_lineage(path)
    architecture = ", ".join(cast("list[str]", config.get("architectures") or ["?"]))
    lines = [
        f"checkpoint {path}",
        f"  model      {architecture} ({config.get('model_type')})",
        f"  size       {_parameters(path):,} parameters, {_megabytes(path):.1f} MB on disk",
        f"  vocabulary {config.get('vocab_size', '?')}",
    ]
    if not lineage:
        return "\n".join([*lines, "  lineage    none: not written by Ontogeny"])
    lines.append(f"  stage      {lineage.get('stage')}, {lineage.get('steps')} steps")
    lines.append(f"  parent     {lineage.get('parent') or 'none: random weights'}")
    for source in cast("list[dict[str, object]]", lineage.get("data", [])):
        held_out = f"{source.get('rows')} rows, {source.get('held_out')} held out"
        lines.append(f"  data       {source.get('name')}: {source.get('path')} ({held_out})")
    versions = cast("dict[str, str]", lineage.get("versions", {}))
    lines.append("  versions   " + ", ".join(f"{name} {each}" for name, each in versions.items()))
    lines.append(f"  key        {lineage.get('key')}")
    return "\n".join(lines)


def _parameters(folder: Path) -> int:
    """Count the elements in the safetensors files from their headers alone."""
    total = 0
    for file in folder.glob("*.safetensors"):
        for name, entry in _header(file).items():
            if name != "__metadata__":
                total += math.prod(cast("dict[str, list[int]]", entry)["shape"])
    return total


def _header(file: Path) -> dict[str, object]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            return cast("dict[str, object]", json.loads(stream.read(length)))
        except ValueError as error:
            msg = f"{file} is damaged: its header is no JSON"
            raise CheckpointError(msg) from error


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
