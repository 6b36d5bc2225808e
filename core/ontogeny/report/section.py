"""What a plugin adds to the page of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]


@dataclass(frozen=True)
class Section:
    """A part of the page under its stage; what is left out is not shown.

    Everything is plain text and numbers: the page escapes it, draws it in its own colours, and
    stays one file without scripts.
    """

    title: str
    text: str = ""  # paragraphs, with empty lines between them
    columns: Sequence[str] = ()  # of a table
    rows: Sequence[Sequence[object]] = ()
    curves: Mapping[str, Sequence[Point]] = field(default_factory=dict)  # lines of one chart
    x_label: str = "step"
    y_label: str = ""
