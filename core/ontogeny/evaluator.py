"""The contract of an evaluator: a model and data become named metrics with units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ontogeny.adapter import Bundle
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


class Evaluator(ABC):
    """A measurement of a model; built as `Implementation(options)`."""

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise, before the training begins, for what `evaluate` would fail on after it."""
        del bundle, data

    @abstractmethod
    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Measure; metric names are the field's fixed words, such as `bits_per_byte`."""
