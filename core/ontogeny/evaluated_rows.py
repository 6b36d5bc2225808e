"""The rows that an evaluator measures: of the data or of its own file, checked and drawn."""
# N rows

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.data.rows import BadRow, validated
from ontogeny.errors import DataError
from ontogeny.evaluator import EvaluationData, PlacedRow
from ontogeny.options import Data, column_names
from ontogeny.seeding import derive

if TYPE_CHECKING:
    from ontogeny.evaluator import Metrics
    from ontogeny.objective import Row

Columns = Sequence[Sequence[str]]  # alternatives that a row must have one of


@dataclass(frozen=True)
class EvaluatedRows:
    """Rows, each with the name of the source that it comes from."""

    rows: list[Row]
    sources: list[str]

    def metrics(self, measure: Callable[[np.ndarray], Metrics]) -> Metrics:
        """Return metrics of all rows; as `metric/source` of each source too if there are several.

        `measure` is given the indices of the rows that it measures, [N].
        """
        found = measure(np.arange(len(self.rows)))
        names = list(dict.fromkeys(self.sources))
        for name in names if len(names) > 1 else ():
            of_source = np.flatnonzero(np.array(self.sources) == name)
            found |= {f"{metric}/{name}": value for metric, value in measure(of_source).items()}
        return found


def rows_to_evaluate(
    data: EvaluationData, path: str | None, columns: Columns, limit: int | None, key: str
) -> EvaluatedRows:
    """Return the rows of `path`, else those of the data: at most `limit` of a source.

    Which ones is a fixed choice. `key` is where the evaluator's options stand, for the errors:
    raises DataError without rows, and for a row that lacks columns.
    """
    found = {"own": data.read(path, columns)} if path is not None else data.rows
    rows, sources = [], []
    for source, given in found.items():
        for row in drawn(source, given, limit):
            rows.append(row if path is not None else _checked(row, source, columns, data, key))
            sources.append(source)
    if not rows:
        msg = (
            f"no rows to evaluate on: set {key}.path to rows of its own, or data.path, or where a "
            f"stage trains data.validation.path or data.validation.share"
        )
        raise DataError(msg)
    return EvaluatedRows(rows, sources)


def shipped_rows(path: str, columns: Columns) -> list[Row]:
    """Return the rows of a file that ships with a plugin: its columns have their own names."""
    return EvaluationData({}, Data()).read(path, columns)


def drawn(name: str, rows: Sequence[Row], limit: int | None) -> Sequence[Row]:
    """Return at most `limit` rows in their order: a random choice, fixed for this name."""
    if limit is None or len(rows) <= limit:
        return rows
    generator = np.random.default_rng(derive("rows", name))
    chosen = np.sort(generator.choice(len(rows), limit, replace=False))
    return [rows[int(index)] for index in chosen]


def _checked(row: Row, source: str, columns: Columns, data: EvaluationData, key: str) -> Row:
    """Return a row of the data, of which no more is known than what the objective needs."""
    names = {name: name for name in column_names(data.options)}
    good = validated(row, names, columns)
    if isinstance(good, BadRow):
        msg = f"{key}: a row to evaluate on, of source {source}: {good.reason}; or set {key}.path"
        raise DataError(msg)
    return PlacedRow(good, row.where) if isinstance(row, PlacedRow) else good
