"""Parquet and Arrow into rows, numbered from 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.data.compression import unreadable
from ontogeny.data.rows import BadRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pyarrow import NativeFile, RecordBatch

    from ontogeny.data.rows import Parsed

ROWS = 256  # converted at a time: documents may be long
FILE_MAGIC = b"ARROW1"  # a file with a footer (feather); without it a stream, as datasets writes


def parquet_rows(path: Path) -> Iterator[Parsed]:
    """Yield (number, row); raise DataError where the file is cut off or damaged."""
    import pyarrow as pa  # noqa: PLC0415  heavy
    from pyarrow import parquet  # noqa: PLC0415  heavy

    try:
        if path.stat().st_size:
            with parquet.ParquetFile(path) as file:
                yield from _numbered(file.iter_batches(batch_size=ROWS))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def arrow_rows(path: Path) -> Iterator[Parsed]:
    """Yield (number, row) of an Arrow file or stream; raise DataError where it is damaged.

    Invalid UTF-8 counts as damage here: it cannot be told from other damage.
    """
    import pyarrow as pa  # noqa: PLC0415  heavy

    try:
        if path.stat().st_size:
            with pa.OSFile(str(path)) as source:
                yield from _numbered(_batches(source))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def _batches(source: NativeFile) -> Iterator[RecordBatch]:
    from pyarrow import ipc  # noqa: PLC0415  heavy

    magic = source.read(len(FILE_MAGIC))
    source.seek(0)
    if magic == FILE_MAGIC:
        file = ipc.open_file(source)
        batches = (file.get_batch(index) for index in range(file.num_record_batches))
    else:
        batches = iter(ipc.open_stream(source))
    for batch in batches:
        batch.validate(full=True)  # Arrow trusts the offsets in a file: wrong ones crash Python
        yield batch


def _numbered(batches: Iterable[RecordBatch]) -> Iterator[Parsed]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            for row in _rows(batch.slice(start, ROWS)):
                number += 1
                yield number, row


def _rows(batch: RecordBatch) -> list[dict[str, object] | BadRow]:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError as error:
        if batch.num_rows > 1:
            singles = (batch.slice(index, 1) for index in range(batch.num_rows))
            return [row for single in singles for row in _rows(single)]
        place = f"byte 0x{error.object[error.start]:02x} at byte offset {error.start} of the value"
        return [BadRow(f"invalid UTF-8: {place}")]


READERS = {".parquet": parquet_rows, ".arrow": arrow_rows, ".feather": arrow_rows}
