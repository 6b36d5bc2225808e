"""All rows of the data of a stage that trains nothing, checked for every evaluator."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ontogeny.data.pipeline import SourceReader, sources_of
from ontogeny.data.rows import BadRow, validated
from ontogeny.errors import ConfigError, DataError
from ontogeny.evaluator import PlacedRow
from ontogeny.options import column_names

if TYPE_CHECKING:
    from pathlib import Path

    from ontogeny.evaluator import Evaluator
    from ontogeny.objective import Row
    from ontogeny.options import Data

Evaluators = Mapping[str, "Evaluator"]


class AllRows:
    """Reads every row of every source, by name; nothing is held out, since nothing is trained."""

    def __init__(
        self, data: Data, evaluators: Evaluators, folder: Path, announce: Callable[[str], None]
    ) -> None:
        self.data = data
        self.evaluators = evaluators
        self.folder = folder  # where rejected rows are written
        self.announce = announce

    def read(self) -> dict[str, Sequence[Row]]:
        """Return the rows by source; none where the stage names no data.

        Raises DataError for a row that an evaluator cannot use, unless `data.on_error=skip`, and
        ConfigError where there is no data for one that needs some.
        """
        if self.data.path is None and not self.data.sources and self.data.example is None:
            self._require_no_need()
            return {}
        return {
            name: self._source(name, source.path) for name, source in sources_of(self.data).items()
        }

    def _require_no_need(self) -> None:
        for name, evaluator in self.evaluators.items():
            if evaluator.columns:
                wanted = " or ".join(" + ".join(names) for names in evaluator.columns)
                msg = (
                    f"evaluator {name} measures rows with {wanted}, but there are none: set "
                    f"data.path or data.sources.<name>.path to the rows to evaluate"
                )
                raise ConfigError(msg)

    def _source(self, name: str, path: str) -> list[Row]:
        rejected: list[dict[str, str]] = []

        def reject(where: str, reason: str) -> None:
            if self.data.on_error != "skip":
                msg = f"{where}: {reason}; mend the row or set data.on_error=skip"
                raise DataError(msg)
            rejected.append({"where": where, "reason": reason})

        reader = SourceReader(name, path, self.data, ())
        rows: list[Row] = []
        for record in islice(reader.records(reject), self.data.validation.limit):
            if (reason := self._unfit(record.row)) is None:
                rows.append(PlacedRow(record.row, record.where))
            else:
                reject(record.where, reason)
        self._report(name, path, len(rows), rejected)
        return rows

    def _unfit(self, row: Row) -> str | None:
        """Return why an evaluator cannot use a row, or None."""
        names = {name: name for name in column_names(self.data)}
        for name, evaluator in self.evaluators.items():
            if evaluator.columns:
                found = validated(row, names, evaluator.columns)
                if isinstance(found, BadRow):
                    return f"evaluator {name}: {found.reason}"
        return None

    def _report(self, name: str, path: str, count: int, rejected: Sequence[object]) -> None:
        self.announce(f"data: {path}: {count} rows to evaluate")
        if rejected:
            file = self.folder / f"rejected-{name}.jsonl"
            file.write_text("".join(json.dumps(each) + "\n" for each in rejected))
            self.announce(f"data: {len(rejected)} bad rows left out, see {file.name}")
