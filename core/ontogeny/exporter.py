"""The contract of an exporter: a checkpoint is written in a format, and opened again as proof."""
# T tokens, V vocabulary, C classes

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from ontogeny.adapter import Bundle


class Exported(ABC):
    """An export that is open, as those who use it will open it."""

    note: str = ""  # what could not be proven here, in a few words; empty: nothing was left out

    @abstractmethod
    def outputs(self, ids: Sequence[int]) -> Tensor:
        """Return the first output of one row in float32: the logits, [T, V] or [C]."""

    def encode(self, text: str) -> list[int] | None:
        """Return the ids of a text, without special tokens, as the export has them.

        None where the format has no tokenizer of its own, or where it cannot be asked.
        """
        del text
        return None

    def close(self) -> None:  # noqa: B027  most have nothing to let go of
        """Let go of files and memory."""


class Exporter(ABC):
    """A format; built as `Implementation(options)`.

    The stage that exports compares what is opened with the checkpoint, on real text. Nothing is
    kept that differs by more than `tolerance`.
    """

    # How far outputs may be off, relative to the largest of a row. Options may decide.
    tolerance: float = 1e-3

    def check(self, bundle: Bundle, source: str) -> None:
        """Raise ConfigError, before any work, for what the format does not support.

        The message names what it supports. `source` is model.source, for formats that need it.
        """
        del bundle, source

    @abstractmethod
    def export(self, bundle: Bundle, source: str, folder: Path) -> None:
        """Write the bundle into an empty folder, and leave it as it was.

        The model is whole (an adapter is merged), in float32 and in eval mode. The chat template
        and the ids that end a text belong to an export. Lineage and card are added by the core.
        """

    @abstractmethod
    def open(self, folder: Path) -> Exported:
        """Open what `export` has written, with the library that its users have."""
