"""What may change the last bit of a result is decided once, and kept when the run goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.compilation import decide_compilation
from ontogeny.folders import write_text
from ontogeny.precision import resolve_precision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ontogeny.configuration import StageConfig


class Decisions:
    """Precision, threads and compilation of one run, kept in a file beside its training states."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "decisions.json"
        self._made: dict[str, object] = {}
        if self._file.exists():
            self._made = cast("dict[str, object]", json.loads(self._file.read_text()))

    def numbers(self, config: StageConfig, device: str) -> str:
        """Return the precision to compute in, and set the number of threads."""
        precision = self._once("precision", lambda: resolve_precision(config.precision, device))
        threads = self._once("threads", torch.get_num_threads)
        torch.set_num_threads(int(cast("int", threads)))
        return str(precision)

    def compiles(
        self, option: str, parameters: int, tokens: int, announce: Callable[[str], None]
    ) -> bool:
        """Return whether the body is compiled; say why, when that is decided here."""

        def decide() -> bool:
            choice, reason = decide_compilation(option, parameters, tokens)
            announce(f"compile: {'yes' if choice else 'no'}: {reason}")
            return choice

        return bool(self._once("compile", decide))

    def _once(self, name: str, decide: Callable[[], object]) -> object:
        if name not in self._made:
            self._made[name] = decide()
            write_text(self._file, json.dumps(self._made) + "\n")
        return self._made[name]
