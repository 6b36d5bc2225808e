"""The lines of a file as bytes, decompressed by its suffix."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import TYPE_CHECKING, BinaryIO, cast

from ontogeny.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Buffer

COMPRESSIONS = (".gz", ".zst")
CHUNK = 1 << 16  # compressed bytes read at a time


def byte_lines(path: Path) -> Iterator[bytes]:
    """Yield lines with their line ends; raise DataError where the file is cut off or damaged."""
    try:
        with _opened(path) as stream:
            yield from stream
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for a file that cannot be read to its end."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return DataError(f"{path}: cannot be read: {reason}; restore the file or remove it")


def _opened(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast("BinaryIO", gzip.open(path))
    if path.suffix.lower() == ".zst":
        return io.BufferedReader(_ZstdReader(path))
    return path.open("rb")


class _ZstdReader(io.RawIOBase):
    """Decompress frame by frame: zstandard's own reader takes a file that is cut off for whole."""

    def __init__(self, path: Path) -> None:
        try:
            import zstandard  # noqa: PLC0415  optional
        except ImportError as error:
            msg = f"{path}: .zst needs the package zstandard; pip install zstandard"
            raise DataError(msg) from error
        self._zstandard = zstandard
        self._stream = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._is_inside_frame = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer).cast("B")
        while not self._ready:
            chunk = self._frame.unused_data or self._stream.read(CHUNK)
            if not chunk and self._is_inside_frame:
                msg = "the compressed data is cut off"
                raise EOFError(msg)
            if not chunk:
                return 0
            self._ready = memoryview(self._decompressed(chunk))
        count = min(len(target), len(self._ready))
        target[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompressed(self, chunk: bytes) -> bytes:
        if self._frame.eof:
            self._frame = self._zstandard.ZstdDecompressor().decompressobj()
        try:
            plain = self._frame.decompress(chunk)
        except self._zstandard.ZstdError as error:
            raise OSError(str(error)) from error
        self._is_inside_frame = not self._frame.eof
        return plain

    def close(self) -> None:
        self._stream.close()
        super().close()
