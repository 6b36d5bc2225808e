"""One source becomes a folder: its examples, its held-out rows, and the rows that are bad."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING, Self

from ontogeny.data.examples import ExampleWriter
from ontogeny.data.splitting import row_key
from ontogeny.errors import DataError, RowError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from ontogeny.data.pipeline import SourceReader
    from ontogeny.data.reading import Record
    from ontogeny.objective import Example, Objective, Row

ROWS_PER_CALL = 1000  # rows that one call of `prepare` gets: enough for the tokenizer's threads


@dataclass
class Chunk:
    """Rows of one source on their way to examples, all to train on or all held out."""

    held_out: bool
    records: list[Record] = field(default_factory=list)


@dataclass
class Prepared:
    """What became of a chunk."""

    held_out: bool
    rows: list[Row] = field(default_factory=list)  # the good ones
    examples: list[Example] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)  # (where, reason)


def build_source(
    reader: SourceReader, objective: Objective, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write examples, held-out rows, bad rows and facts of one source into an empty folder.

    Raises DataError for a bad row, unless `data.on_error` says to skip those.
    """
    _require_two_rows(reader)
    prepare = partial(prepare_chunk, objective, tokenizer, on_error=reader.data.on_error)
    with ExampleWriter(folder) as writer, _Rows(folder) as rows:
        chunks = _chunks(reader, rows.reject)
        for prepared in map_chunks(prepare, chunks, reader.data.workers):
            rows.add(prepared)
            for example in prepared.examples:
                writer.add(example)
    rows.require_any(reader.path)
    facts = {**rows.facts, "empty": writer.skipped}
    (folder / "facts.json").write_text(json.dumps(facts))


def prepare_chunk(
    objective: Objective, tokenizer: PreTrainedTokenizerBase, chunk: Chunk, *, on_error: str
) -> Prepared:
    """Prepare the good rows of a chunk; held-out ones too, to know that they are good."""
    done = Prepared(chunk.held_out)
    waiting = [chunk.records]
    while waiting:
        records = waiting.pop(0)
        rows = [record.row for record in records]
        try:
            examples = list(objective.prepare(rows, tokenizer)) if rows else []
        except RowError as error:
            place = records[error.index].where
            if on_error != "skip":
                msg = f"{place}: {error.reason}; mend the row or set data.on_error=skip"
                raise DataError(msg) from error
            done.bad.append((place, error.reason))
            waiting[:0] = [records[: error.index], records[error.index + 1 :]]
            continue
        done.rows += rows
        done.examples += [] if chunk.held_out else examples
    return done


def map_chunks(
    prepare: Callable[[Chunk], Prepared], chunks: Iterator[Chunk], workers: int
) -> Iterator[Prepared]:
    """Apply `prepare` in order: here (the tokenizer has threads), or in worker processes."""
    if workers == 0:
        yield from map(prepare, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = [pool.submit(prepare, chunk) for chunk in islice(chunks, 2 * workers)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(prepare, chunk) for chunk in islice(chunks, 1)]


def _require_two_rows(reader: SourceReader) -> None:
    """Raise DataError where a row is to be held out, and there is a single one."""
    keys = (row_key(record.row) for record in reader.records(lambda *_: None))
    first = next(keys, None)
    if reader.share and first is not None and all(key == first for key in keys):
        msg = (
            f"{reader.path} has a single row, so none can be held out: set data.validation.path, "
            f"data.validation.share=0 or a smaller data.text_unit"
        )
        raise DataError(msg)


def _chunks(reader: SourceReader, reject: Callable[[str, str], None]) -> Iterator[Chunk]:
    """Yield all rows in chunks, each kind in the order of the files."""
    filling = {held_out: Chunk(held_out) for held_out in (False, True)}
    for record in reader.records(reject):
        held_out = reader.holds_out(record.row)
        filling[held_out].records.append(record)
        if len(filling[held_out].records) == ROWS_PER_CALL:
            yield filling[held_out]
            filling[held_out] = Chunk(held_out)
    yield from filling.values()


class _Rows:
    """Writes the held-out rows and the bad ones of a source, and counts all kinds."""

    def __init__(self, folder: Path) -> None:
        self.trained = self.held = self.rejected = 0
        self._first_bad = ""
        self._held_out = (folder / "held_out.jsonl").open("w")
        self._rejected = (folder / "rejected.jsonl").open("w")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held_out.close()
        self._rejected.close()

    @property
    def facts(self) -> dict[str, int]:
        """How many rows there are of each kind."""
        return {"rows": self.trained, "held_out": self.held, "rejected": self.rejected}

    def add(self, prepared: Prepared) -> None:
        """Take what became of a chunk."""
        for where, reason in prepared.bad:
            self.reject(where, reason)
        if not prepared.held_out:
            self.trained += len(prepared.rows)
            return
        self.held += len(prepared.rows)
        for row in prepared.rows:
            self._held_out.write(json.dumps(row, ensure_ascii=False) + "\n")

    def reject(self, where: str, reason: str) -> None:
        """Take a bad row."""
        self.rejected += 1
        self._first_bad = self._first_bad or f"{where}: {reason}"
        self._rejected.write(json.dumps({"where": where, "reason": reason}) + "\n")

    def require_any(self, path: str) -> None:
        """Raise DataError where all rows are bad."""
        if self.rejected and not self.trained:
            msg = f"{path} has no rows to train on but {self.rejected} bad ones, "
            raise DataError(f"{msg}first {self._first_bad}")
