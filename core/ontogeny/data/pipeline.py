"""From the options under `data` to rows of training tokens, tokenised once and kept by content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ontogeny.data.collation import pad_row
from ontogeny.data.examples import Examples
from ontogeny.data.hub import is_hub_name
from ontogeny.data.mixing import Mixture
from ontogeny.data.mixing import Source as MixedSource
from ontogeny.data.packing import Bins, best_fit_bins, pack, split_spans, whole_spans
from ontogeny.data.preparation import build_source
from ontogeny.data.reading import Record, read_rows, resolve_files
from ontogeny.data.splitting import is_held_out, row_key
from ontogeny.digest import DigestCache, digest_files, digest_json
from ontogeny.errors import ConfigError, DataError
from ontogeny.evaluator import PlacedRow
from ontogeny.objective import IGNORED
from ontogeny.options import Data, Source, column_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.annotations import Annotations
    from ontogeny.objective import Example, Objective, Row
    from ontogeny.store import Store

UNLUCKY_ROWS = 10_000  # a share that holds out none of so many is what the user asked for


def sources_of(data: Data) -> dict[str, Source]:
    """Return the sources by name: `data.sources`, or `data.path` as one called `data`."""
    if data.sources:
        return dict(data.sources)
    path = data.example if data.path is None else data.path  # an empty path is no wish for it
    if path is None:
        msg = "no data: set data.path (file, glob, folder, Hub name) or data.sources.<name>.path"
        raise ConfigError(msg)
    return {"data": Source(path=path)}


def digest_source(path: str, cache: DigestCache | None) -> str:
    """Return the digest of what a path names: of the files' contents, or of a Hub name."""
    if is_hub_name(path):
        return digest_json({"hub": path})
    return digest_files(resolve_files(path), cache)


@dataclass(frozen=True)
class SourceReader:
    """Reads one source; the same rows are held out whatever the stage."""

    name: str
    path: str
    data: Data
    required: Sequence[Sequence[str]]

    def records(self, rejected: Callable[[str, str], None] | None = None) -> Iterator[Record]:
        """Yield the rows of all files; bad ones raise DataError or go to `rejected`."""
        return read_rows(
            self.path,
            columns=column_names(self.data),
            required=self.required,
            text_unit=self.data.text_unit,
            on_error=self.data.on_error,
            rejected=rejected,
        )

    def training_records(self) -> Iterator[Record]:
        """Yield the rows to train on; bad ones are passed over where that was asked for."""
        records = self.records(lambda *_: None)
        return (record for record in records if not self.holds_out(record.row))

    def held_out_records(self) -> Iterator[Record]:
        """Yield the rows that are never trained on; bad ones are passed over as above."""
        records = self.records(lambda *_: None)
        return (record for record in records if self.holds_out(record.row))

    def holds_out(self, row: Row) -> bool:
        """Say whether a row of this source is held out: the same in everything that reads it."""
        if not self.share:
            return False
        return is_held_out(row, self.share) or row_key(row) == self.forced

    @cached_property
    def forced(self) -> bytes | None:
        """The key of the row to hold out where chance would hold out none of several."""
        keys: set[bytes] = set()
        for record in self.records(lambda *_: None):
            if is_held_out(record.row, self.share):
                return None
            keys.add(row_key(record.row))
            if len(keys) > UNLUCKY_ROWS:
                return None
        return min(keys) if len(keys) > 1 else None

    def identity(self) -> dict[str, object]:
        """Return what decides the rows, for a cache key (the content has a digest of its own)."""
        return {
            "columns": column_names(self.data),
            "required": [list(names) for names in self.required],
            "text_unit": self.data.text_unit,
            "on_error": self.data.on_error,
            "share": self.share,
        }

    @property
    def share(self) -> float:
        """The share of rows that is held out here."""
        own = self.data.sources.get(self.name)
        elsewhere = self.data.validation.path or (own is not None and own.validation)
        return 0.0 if elsewhere else self.data.validation.share


@dataclass(frozen=True)
class PreparedSource:
    """A tokenised source: its examples on disk, and its held-out rows."""

    name: str
    folder: Path
    examples: Examples
    facts: Mapping[str, object]

    @property
    def held_out(self) -> Path:
        """The file with the rows that are not trained on."""
        return self.folder / "held_out.jsonl"


def prepare_source(
    reader: SourceReader,
    objective: Objective,
    objective_identity: object,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_digest: str,
    store: Store,
    cache: DigestCache | None,
) -> PreparedSource:
    """Tokenise a source, or find it in the store."""
    key = digest_json(
        {
            "content": digest_source(reader.path, cache),
            "reading": reader.identity(),
            "objective": objective_identity,
            "tokenizer": tokenizer_digest,
            "version": 1,
        }
    )
    build = partial(build_source, reader, objective, tokenizer)
    folder = store.create("examples", key, build)
    facts = json.loads((folder / "facts.json").read_text())
    return PreparedSource(reader.name, folder, Examples(folder), facts)


class TrainingRows:
    """All training rows as an endless sequence: position -> row, a pure function of the seed."""

    def __init__(
        self, sources: Sequence[PreparedSource], objective: Objective, data: Data, seed: int
    ) -> None:
        self.capacity = data.max_length
        self.packs = data.packing and objective.packs
        self.long_examples = objective.long_examples
        self.truncated: dict[str, int] = {}  # examples that lost their end, by source
        self.unlabelled: dict[str, int] = {}  # examples left out: what is left has no label
        self.too_long: dict[str, int] = {}  # examples left out: they do not fit into a row
        self.sources = [SourceRows(source, self) for source in sources]
        weights = {name: source.weight for name, source in sources_of(data).items()}
        mixed = [
            MixedSource(
                name=rows.source.name,
                rows=len(rows),
                tokens=rows.tokens,
                weight=weights[rows.source.name],
            )
            for rows in self.sources
        ]
        self.mixture = Mixture(mixed, seed)

    def __len__(self) -> int:
        """Count the rows of one pass over all sources."""
        return self.mixture.rows

    def __getitem__(self, position: int) -> Example:
        """Return the row at a position of the endless stream, [T] per column."""
        source, row, _ = self.mixture.locate(position)
        return self.sources[source][row]


class SourceRows:
    """The rows of one source: packed bins of spans, or one example each."""

    def __init__(self, source: PreparedSource, rows: TrainingRows) -> None:
        self.source = source
        self.capacity = rows.capacity
        self.annotations: Annotations | None = None  # more columns of each row
        self._cutting = rows.long_examples
        lengths = source.examples.sizes()
        if not source.examples.has_tokens:  # such as pairs: the objective limits their length
            self.spans, _ = whole_spans(lengths, int(lengths.max(initial=1)))
        elif rows.long_examples == "split":
            self.spans = split_spans(lengths, rows.capacity)
        elif rows.long_examples == "leave_out":
            spans, rows.too_long[source.name] = whole_spans(lengths, rows.capacity)
            self.spans = self._fitting(spans, lengths)
        else:
            spans, truncated = whole_spans(lengths, rows.capacity)
            self.spans = self._labelled(spans, lengths)
            rows.unlabelled[source.name] = len(spans) - len(self.spans)
            rows.truncated[source.name] = truncated - rows.unlabelled[source.name]
        sizes = self.spans[:, 2] - self.spans[:, 1]
        self.tokens = int(sizes.sum())
        packs = rows.packs and source.examples.has_tokens
        self.bins: Bins | None = best_fit_bins(sizes, rows.capacity) if packs else None

    def _fitting(self, spans: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Leave out examples that are longer than a row; raise where that is all of them."""
        fits = lengths <= self.capacity
        if len(spans) and not fits.any():
            msg = (
                f"no example of {self.source.name} fits into {self.capacity} tokens, the shortest "
                f"has {lengths.min()}; raise data.max_length"
            )
            raise DataError(msg)
        return spans[fits]

    def _labelled(self, spans: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Leave out examples that were cut before their first label; raise where that is all."""
        kept = np.ones(len(spans), bool)
        for index in np.flatnonzero(lengths > self.capacity):
            labels = self.source.examples.piece((int(index), 0, self.capacity)).get("labels")
            kept[index] = labels is None or bool((labels != IGNORED).any())
        if len(spans) and not kept.any():
            msg = (
                f"no example of {self.source.name} has a label among its first {self.capacity} "
                f"tokens; raise data.max_length, which is {self.capacity}"
            )
            raise DataError(msg)
        return spans[kept]

    def __len__(self) -> int:
        return len(self.spans) if self.bins is None else len(self.bins)

    def __getitem__(self, row: int) -> Example:
        found = self.row(row)
        return found if self.annotations is None else {**found, **self.annotations[row]}

    def identity(self) -> dict[str, object]:
        """Return what makes rows out of the examples, for a cache key."""
        packs = self.bins is not None
        return {"capacity": self.capacity, "packs": packs, "long_examples": self._cutting}

    def row(self, row: int) -> Example:
        """Return a row without annotations."""
        if self.bins is None:
            return self._piece(row)
        packed = pack([self._piece(int(index)) for index in self.bins[row]])
        return pad_row(packed, self.capacity)

    def _piece(self, index: int) -> Example:
        example, start, stop = (int(number) for number in self.spans[index])
        return self.source.examples.piece((example, start, stop))


def validation_rows(
    data: Data,
    prepared: Sequence[PreparedSource],
    required: Sequence[Sequence[str]],
) -> dict[str, list[Row]]:
    """Return the rows to evaluate on, by source: those of a file of its own, or held out.

    `data.validation.path` stands for all sources together.
    """
    files = {source.name: source.held_out for source in prepared}

    def read(reader: SourceReader) -> list[Row]:
        with files[reader.name].open() as lines:
            return [cast("Row", json.loads(line)) for line in islice(lines, data.validation.limit)]

    return _validation_rows(data, required, read)


def validation_rows_again(data: Data, required: Sequence[Sequence[str]]) -> dict[str, list[Row]]:
    """Return the rows that `validation_rows` does, out of the sources: nothing is tokenised.

    With `data.on_error=skip` rows are among them that only the objective refused.
    """

    def read(reader: SourceReader) -> list[Row]:
        return [record.row for record in islice(reader.held_out_records(), data.validation.limit)]

    return _validation_rows(data, required, read)


def _validation_rows(
    data: Data,
    required: Sequence[Sequence[str]],
    read_held_out: Callable[[SourceReader], list[Row]],
) -> dict[str, list[Row]]:
    limit = data.validation.limit
    if data.validation.path:
        reader = SourceReader("validation", data.validation.path, data, required)
        return {"validation": _placed(islice(reader.records(), limit))}
    held_out: dict[str, list[Row]] = {}
    for name, source in sources_of(data).items():
        if source.validation:
            reader = SourceReader(name, source.validation, data, required)
            held_out[name] = _placed(islice(reader.records(), limit))
        elif rows := read_held_out(SourceReader(name, source.path, data, required)):
            held_out[name] = rows
    return held_out


def _placed(records: Iterable[Record]) -> list[Row]:
    return [PlacedRow(record.row, record.where) for record in records]
