"""The contract of an evaluator: a model and data become named metrics with units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ontogeny.errors import ConfigError, DataError
from ontogeny.options import column_names
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny.objective import Row
    from ontogeny.options import Data

Found = TypeVar("Found")


@dataclass(frozen=True)
class Metric:
    """One measured value with its unit and, where there is one, its 95 % interval.

    Numbers may be NumPy's, or tensors of one element.
    """

    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    less_is_better: bool | None = None  # none: so it is for losses, errors and perplexities

    def __post_init__(self) -> None:
        """Make plain numbers of all numbers."""
        for name in ("low", "value", "high"):
            number = getattr(self, name)
            object.__setattr__(self, name, None if number is None else float(number))

    def as_dict(self) -> dict[str, object]:
        """Return the form that stands in metrics.json."""
        found = {"value": self.value, "unit": self.unit, "low": self.low, "high": self.high}
        said = {} if self.less_is_better is None else {"less_is_better": self.less_is_better}
        return {**found, **said}


Metrics = dict[str, Metric]
# Of these, less is better; of all others, more, unless the metric itself says otherwise.
LESS_IS_BETTER = (
    *("bits_per_byte", "perplexity", "nats", "loss", "error", "rmse", "mae", "false_"),
    *("forgetting/forgetting", "tokens_per_"),
)
SHOWN = 30  # metrics of one evaluator that a screen has room for


def less_is_better(metric: str) -> bool:
    """Say by its name, as evaluator/metric, whether a metric that says nothing itself is a loss."""
    name = metric.partition("/")[2] or metric
    return any(word in (metric if "/" in word else name) for word in LESS_IS_BETTER)


def is_less_better(name: str, metric: Metric) -> bool:
    """Say whether less is better of a metric, evaluator/metric: it may say so itself."""
    return less_is_better(name) if metric.less_is_better is None else metric.less_is_better


def find_metric(key: str, name: str, results: Mapping[str, Metrics]) -> Metric:
    """Return a metric by its name, evaluator/metric; raise ConfigError where nothing measures it.

    `key` is the option that names it.
    """
    known = {
        f"{evaluator}/{own}": metric
        for evaluator, metrics in results.items()
        for own, metric in metrics.items()
    }
    if name not in known:
        msg = (
            f"{key} is {name!r}, which no evaluator measures{suggestion(name, list(known))}; "
            f"known: {', '.join(known) or 'none'}"
        )
        raise ConfigError(msg)
    return known[name]


def on_screen(metrics: Metrics) -> Metrics:
    """Return the metrics that a person is shown: all, or of very many those without a part.

    Parts are what is counted of a class or a source, as `f1/spam`; metrics.json holds them all.
    """
    if len(metrics) <= SHOWN:
        return metrics
    return {name: metric for name, metric in metrics.items() if "/" not in name}


class PlacedRow(dict[str, object]):
    """A row that knows where it stands."""

    def __init__(self, row: Row, where: str) -> None:
        super().__init__(row)
        self.where = where  # "file:line"


@contextmanager
def saying_where(row: Row) -> Iterator[None]:
    """Put the place of a row, where it is known, before what a DataError says of it."""
    try:
        yield
    except DataError as error:
        if isinstance(row, PlacedRow):
            raise DataError(f"{row.where}: {error}") from error
        raise


@dataclass(frozen=True)
class EvaluationData:
    """Held-out rows by the name of their source, and the options of the data they come from."""

    rows: Mapping[str, Sequence[Row]]
    options: Data

    def place(self, source: str, index: int) -> str:
        """Return where a row stands, for errors: "file:line" of rows out of files of their own."""
        among = f"row {index + 1} of the held-out rows of {source}"
        return str(getattr(self.rows[source][index], "where", among))

    def each(self, source: str, read: Callable[[Row], Found]) -> list[Found]:
        """Return what `read` finds in each row of a source.

        Raises DataError, with the place of the row, where `read` raises ValueError.
        """
        found = []
        for index, row in enumerate(self.rows[source]):
            try:
                found.append(read(row))
            except ValueError as error:
                msg = f"{self.place(source, index)}: {error}; mend the row"
                raise DataError(msg) from error
        return found

    def read(self, path: str, columns: Sequence[Sequence[str]]) -> list[Row]:
        """Return all rows of another file, glob, folder or Hub name, read as the data is.

        `columns` are the alternatives that a row must have one of. The option that names the path
        must be declared with `field(metadata=FILE)`, so that its content is in the stage's key.
        """
        from ontogeny.data.reading import read_rows  # noqa: PLC0415  contracts import nothing heavy

        names = column_names(self.options)
        unit = self.options.text_unit
        records = read_rows(path, columns=names, required=columns, text_unit=unit)
        return [PlacedRow(record.row, record.where) for record in records]


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
