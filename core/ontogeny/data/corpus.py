"""The rows of a stage before anything is tokenised, for what must read them first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.data.pipeline import SourceReader, digest_source, sources_of
from ontogeny.digest import DigestCache, digest_json

if TYPE_CHECKING:
    from ontogeny.objective import Row
    from ontogeny.options import Data
    from ontogeny.store import Store


@dataclass(frozen=True)
class Corpus:
    """The sources of a stage, by name: those of `data.sources`, or one called `data`."""

    data: Data
    columns: Sequence[Sequence[str]]  # that a row must have: any one of these alternatives
    store: Store
    announce: Callable[[str], None]  # say a line to the user

    @property
    def names(self) -> list[str]:
        """The names of the sources, in order."""
        return list(sources_of(self.data))

    def rows(self, name: str) -> Iterator[Row]:
        """Yield the rows of a source that are trained on, in the order of its files."""
        return (record.row for record in self._reader(name).training_records())

    def held_out(self, name: str) -> Iterator[Row]:
        """Yield the rows that are never trained on: of a file of their own, or held out."""
        reader = self._reader(name)
        elsewhere = self.data.validation.path or sources_of(self.data)[name].validation
        if elsewhere:
            reader = SourceReader(name, elsewhere, self.data, self.columns)
            return (record.row for record in reader.records(lambda *_: None))
        return (record.row for record in reader.held_out_records())

    def digest(self, *names: str) -> str:
        """Return what decides the rows of these sources, for the key of what is made of them."""
        cache = DigestCache(self.store.root / "digests")
        readers = [self._reader(name) for name in names]
        parts = [[digest_source(reader.path, cache), reader.identity()] for reader in readers]
        return digest_json(parts)

    def keep(self, kind: str, identity: object, build: Callable[[Path], None]) -> Path:
        """Return the folder in the store that `build` fills once for this identity (JSON)."""
        return self.store.create(kind, digest_json(identity), build)

    def _reader(self, name: str) -> SourceReader:
        return SourceReader(name, sources_of(self.data)[name].path, self.data, self.columns)
