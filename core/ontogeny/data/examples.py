"""Examples of unequal length in one folder: written once, then read through the page cache."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self, overload

import numpy as np

from ontogeny.errors import DataError
from ontogeny.objective import Example

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

Span = tuple[int, int, int]  # a part of an example: (index of the example, start, stop)
Kind = Literal["integer", "float"]

TOKENS = "input_ids"  # the column whose length is the length of the example
INDEX = "index.json"
BUFFERED_VALUES = 1 << 18  # held in memory by a writer before they go to the files


class ExampleWriter:
    """Write examples into an existing, empty folder; making that folder atomic is up to the caller.

    Integers are stored as int32 (as int64 once a value needs it), floats as float32. What is put
    into `meta` before `close` comes back as `Examples.meta`. If the `with` block raises, no index
    is written and the folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, object] = {}
        self.written = 0
        self.skipped = 0  # examples without a single token
        self._columns: dict[str, _ColumnWriter] = {}
        self._buffered = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._release()

    def add(self, example: Example) -> None:
        """Append a copy of one example; an empty one is counted, a refused one leaves no trace.

        Raises DataError for columns other than those of the first example, in name or in kind.
        """
        arrays = {name: np.array(values) for name, values in example.items()}
        if _is_empty(arrays):
            self.skipped += 1
            return
        self._check(arrays)
        for name, array in arrays.items():
            self._columns[name].append(array)
            self._buffered += array.size
        self.written += 1
        if self._buffered >= BUFFERED_VALUES:
            self._flush()

    def close(self) -> None:
        """Write what is buffered, the offsets, and last the index."""
        self._flush()
        self._release()
        tokens = self._columns.get(TOKENS)
        index = {
            "examples": self.written,
            "skipped": self.skipped,
            "columns": {name: column.finish(tokens) for name, column in self._columns.items()},
            "meta": self.meta,
        }
        (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _check(self, arrays: Example) -> None:
        kinds = {name: _kind(name, array) for name, array in arrays.items()}
        if not self._columns:
            self._columns = {
                name: _ColumnWriter(self.folder, name, kinds[name], is_scalar=array.ndim == 0)
                for name, array in arrays.items()
            }
        if odd := arrays.keys() ^ self._columns.keys():
            message = f"example {self.written} lacks or adds column {', '.join(sorted(odd))}"
            raise DataError(f"{message}; every example needs exactly {', '.join(self._columns)}")
        for name, array in arrays.items():
            self._columns[name].check(array, kinds[name], self.written)

    def _flush(self) -> None:
        self._buffered = 0
        for column in self._columns.values():
            column.flush()

    def _release(self) -> None:
        for column in self._columns.values():
            column.file.close()


class Examples(Sequence[Example]):
    """The examples of a folder that an ExampleWriter filled, as read-only views of its files.

    Pickles as the name of its folder: a DataLoader worker maps the files again.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.folder = folder
        self.skipped: int = index["skipped"]
        self.meta: dict[str, object] = index["meta"]
        self._range = range(index["examples"])
        self._columns = {
            name: _Column(folder, name, **facts) for name, facts in index["columns"].items()
        }

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[row] for row in self._range[index]]
        row = self._range[index]  # counts from the end where negative, raises IndexError
        return {name: column.read(row) for name, column in self._columns.items()}

    def __reduce__(self) -> tuple[type[Examples], tuple[Path]]:
        return type(self), (self.folder,)

    def lengths(self, column: str = TOKENS) -> np.ndarray:
        """Count the values of `column` in every example: int64, [examples]."""
        if not self._range:  # and so no columns
            return np.zeros(0, np.int64)
        if column not in self._columns:
            message = f"{self.folder} has no column {column}"
            raise DataError(f"{message}; expected one of {', '.join(self._columns)}")
        return np.diff(self._columns[column].offsets)

    @property
    def has_tokens(self) -> bool:
        """Whether examples have `input_ids`, by which they can be cut and packed."""
        return TOKENS in self._columns

    def sizes(self) -> np.ndarray:
        """Return how many tokens each example has; of all its columns if it has no input_ids."""
        if self.has_tokens:
            return self.lengths()
        totals = [self.lengths(name) for name in self._columns]
        return np.stack(totals).sum(0) if totals else np.zeros(0, np.int64)

    def piece(self, span: Span) -> Example:
        """Cut the per-token columns to the span; keep all others whole."""
        index, start, stop = span
        return {
            name: values[start:stop] if self._columns[name].per_token else values
            for name, values in self[index].items()
        }


class _ColumnWriter:
    """One column on its way to `<name>.bin` and `<name>.offsets.npy`."""

    def __init__(self, folder: Path, name: str, kind: Kind, *, is_scalar: bool) -> None:
        self.folder, self.name, self.kind, self.is_scalar = folder, name, kind, is_scalar
        self.dtype: np.dtype = np.dtype(np.int32 if kind == "integer" else np.float32)
        self.path = folder / f"{name}.bin"
        self.file = self.path.open("wb")
        self.blocks: list[np.ndarray] = []
        self.lengths: list[int] = []
        self.offsets = [np.zeros(1, np.int64)]

    def check(self, array: np.ndarray, kind: Kind, example: int) -> None:
        if (array.ndim == 0) != self.is_scalar or (kind != self.kind and array.size):
            here = _words(kind, is_scalar=array.ndim == 0)
            first = _words(self.kind, is_scalar=self.is_scalar)
            message = f"column {self.name} is {here} in example {example} but was {first} before"
            raise DataError(f"{message}; make it the same in every example")

    def append(self, array: np.ndarray) -> None:
        self.lengths.append(array.size)
        if array.size:  # np.array([]) is float64 and would promote its neighbours
            self.blocks.append(array.reshape(-1))

    def flush(self) -> None:
        self.offsets.append(np.cumsum(self.lengths, dtype=np.int64) + self.offsets[-1][-1])
        if self.blocks:
            block = np.concatenate(self.blocks)
            if self.dtype == np.int32 and not _fits_int32(block):
                self._widen()
            # Not tofile, which np.save uses too: it hides that the disk is full.
            self.file.write(block.astype(self.dtype).data)
        self.blocks, self.lengths = [], []

    def finish(self, tokens: _ColumnWriter | None) -> dict[str, object]:
        """Write the offsets and return what the index says about this column."""
        offsets = io.BytesIO()
        np.save(offsets, np.concatenate(self.offsets))
        (self.folder / f"{self.name}.offsets.npy").write_bytes(offsets.getbuffer())
        per_token = not self.is_scalar and tokens is not None and self._is_as_long_as(tokens)
        return {"dtype": self.dtype.name, "scalar": self.is_scalar, "per_token": per_token}

    def _is_as_long_as(self, other: _ColumnWriter) -> bool:
        pairs = zip(self.offsets, other.offsets, strict=True)
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    def _widen(self) -> None:
        """Rewrite the file as int64."""
        self.file.close()
        self.dtype = np.dtype(np.int64)
        old = self.path.rename(self.folder / f"{self.name}.int32")
        with old.open("rb") as narrow, self.path.open("wb") as wide:
            while (block := np.fromfile(narrow, np.int32, BUFFERED_VALUES)).size:
                wide.write(block.astype(self.dtype).data)
        old.unlink()
        self.file = self.path.open("ab")


class _Column:
    """One column as stored: the values of all examples in a row, and where each example starts."""

    def __init__(
        self, folder: Path, name: str, *, dtype: str, scalar: bool, per_token: bool
    ) -> None:
        path = folder / f"{name}.bin"
        # np.memmap cannot map an empty file; a view of it slices faster than np.memmap itself
        stored = np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)
        self.values = stored.view(np.ndarray)
        self.offsets = np.load(folder / f"{name}.offsets.npy", mmap_mode="r").view(np.ndarray)
        self.scalar, self.per_token = scalar, per_token

    def read(self, row: int) -> np.ndarray:
        values = self.values[self.offsets[row] : self.offsets[row + 1]]
        return values.reshape(()) if self.scalar else values


def _is_empty(arrays: Example) -> bool:
    if TOKENS in arrays:
        return arrays[TOKENS].size == 0
    return all(array.size == 0 for array in arrays.values())


def _kind(name: str, array: np.ndarray) -> Kind:
    kind = _kind_of_dtype(array.dtype)
    if kind is None or array.ndim > 1:
        message = f"column {name} is {array.dtype} of shape {array.shape}"
        raise DataError(f"{message}; expected one number or a 1-D array of integers or floats")
    return kind


@functools.cache
def _kind_of_dtype(dtype: np.dtype) -> Kind | None:
    if np.can_cast(dtype, np.int64):  # bool too, but not uint64
        return "integer"
    return "float" if np.issubdtype(dtype, np.floating) else None


def _words(kind: Kind, *, is_scalar: bool) -> str:
    return f"one {kind}" if is_scalar else f"an array of type {kind}"


def _fits_int32(block: np.ndarray) -> bool:
    limits = np.iinfo(np.int32)
    return limits.min <= int(block.min()) and int(block.max()) <= limits.max
