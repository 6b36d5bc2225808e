"""What a checkpoint's weights are, by the headers of their files alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import cast

from ontogeny.errors import CheckpointError


def count_parameters(folder: Path) -> int:
    """Count the elements in a folder's safetensors files; raise CheckpointError for a torn one."""
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
