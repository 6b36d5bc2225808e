"""The contract of an evaluator: a model and data become named metrics with units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

from ontogeny.options import column_names

if TYPE_CHECKING:
    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny.objective import Row
    from ontogeny.options import Data


@dataclass(frozen=True)
class Metric:
    """One measured value with its unit and, where there is one, its 95 % interval."""

    value: float
    unit: str
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the form that stands in metrics.json."""
        return asdict(self)


Metrics = dict[str, Metric]


@dataclass(frozen=True)
class EvaluationData:
    """Held-out rows by the name of their source, and the options of the data they come from."""

    rows: Mapping[str, Sequence[Row]]
    options: Data

    def read(self, path: str, columns: Sequence[Sequence[str]]) -> list[Row]:
        """Return all rows of another file, glob, folder or Hub name, read as the data is.

        `columns` are the alternatives that a row must have one of. The option that names the path
        must be declared with `field(metadata=FILE)`, so that its content is in the stage's key.
        """
        from ontogeny.data.reading import read_rows  # noqa: PLC0415  contracts import nothing heavy

        names = column_names(self.options)
        unit = self.options.text_unit
        records = read_rows(path, columns=names, required=columns, text_unit=unit)
        return [record.row for record in records]


class Evaluator(ABC):
    """A measurement of a model; built as `Implementation(options)`."""

    # Columns that a held-out row must have: any one of these alternatives; none: it reads no rows.
    columns: ClassVar[Sequence[Sequence[str]]] = (("text",),)

    def begin(self, companions: Companions) -> None:
        """Take the other models that the measurement needs; called once, before `check`."""
        del companions

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise, before the training begins, for what `evaluate` would fail on after it."""
        del bundle, data

    @abstractmethod
    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Measure; metric names are the field's fixed words, such as `bits_per_byte`."""
