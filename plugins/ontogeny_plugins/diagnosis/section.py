"""What a diagnosis adds to the page of its run: the advice, its evidence, the next command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from ontogeny import Section

ADVICE = "advice.json"


def sections(folder: Path) -> list[Section]:
    """Return the section of a stage that has left an advice; none of another stage."""
    file = folder / ADVICE
    if not file.is_file():
        return []
    advice = json.loads(file.read_text())
    vocabulary = "expand the vocabulary" if advice["expand_vocabulary"] else "keep the vocabulary"
    command = shlex.join(["ontogeny", *advice["overrides"]])
    text = f"Path: {advice['path']}; {vocabulary}.\n\nNext: {command}"
    rows = list(_leaves(advice["evidence"]))
    return [Section("Advice", text, columns=["evidence", "value"], rows=rows)]


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}".lstrip("."))
    elif not isinstance(value, list) or value:
        yield key, value
