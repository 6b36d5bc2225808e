"""What another model says of the training rows: computed once, kept by content, merged in.

The pass is written in parts: one that was cut off goes on with the part that it was at.
"""
# B rows of a batch, T tokens, K values of a token

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ontogeny.digest import digest_json
from ontogeny.disk_space import folder_size, free_bytes, full_disk_error
from ontogeny.errors import ConfigError, DataError
from ontogeny.folders import file_digests, write_folder, write_text
from ontogeny.precision import autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from ontogeny.companions import Companion
    from ontogeny.data.pipeline import SourceRows, TrainingRows
    from ontogeny.objective import Example, Objective
    from ontogeny.store import Store

KIND = "annotations"  # of the store
IDENTITY = "identity.json"  # of an entry: all that decides what is in it
PART_ROWS = 64  # what is lost at most when a pass is cut off
_WORDS = {
    "content": "other data (or other tokens of the same)",
    "rows": "rows of another data.max_length or data.packing",
    "model": "another model",
    "options": "other options of the objective",
    "precision": "another precision",
}


@dataclass(frozen=True)
class Recorded:
    """What a model has said before, in a folder that an option names."""

    key: str  # the option, for messages
    folder: Path
    companion: Companion | None  # whose words they must be; none: it is not at hand


class Annotation:
    """One pass of a model over all training rows of a run."""

    def __init__(
        self,
        objective: Objective,
        companion: Companion | None,
        code: str,
        precision: str,
        batch_size: int,
    ) -> None:
        self.objective = objective
        self.companion = companion  # none: somebody else has let it read the rows
        self.code = code  # version of the plugin that annotates
        self.precision = precision
        self.batch_size = batch_size

    def add_to(
        self,
        rows: TrainingRows,
        model: Callable[[], nn.Module],
        store: Store,
        announce: Callable[[str], None],
    ) -> None:
        """Annotate all sources; `model` is called for the first one that is not in the store."""
        for source in rows.sources:
            identity = self._identity(source)
            key = digest_json(identity)
            folder = store.get(KIND, key)
            if folder is None:
                with store.lock(KIND, key):
                    folder = store.get(KIND, key) or self._make(
                        source, identity, key, model, store, announce
                    )
            source.annotations = Annotations(folder)

    def take(self, rows: TrainingRows, key: str, folder: Path) -> None:
        """Annotate all sources with what another run has written; `key` is the option that says so.

        `folder` is an entry of the store, a copy of one, or a folder of several. Raises ConfigError
        where none of them was made for these rows and this model.
        """
        entries = [place.parent for place in sorted(folder.glob(f"**/{IDENTITY}"))]
        if not entries:
            raise ConfigError(
                f"{key} is {folder}, which holds no {IDENTITY}: no pass has ended there"
            )
        for source in rows.sources:
            wanted = self._identity(source)
            source.annotations = Annotations(_fitting(entries, wanted, key, source.source.name))

    def _identity(self, source: SourceRows) -> dict[str, object]:
        """Return all that decides the result: options of the loss alone are no part of it."""
        return {
            "rows": source.identity(),
            "content": content_of(source.source.folder),
            "model": None if self.companion is None else self.companion.digest,
            "objective": type(self.objective).__qualname__,
            "options": dict(self.objective.annotation_options()),
            "code": self.code,
            "precision": self.precision,
            "version": 2,
        }

    def _make(
        self,
        source: SourceRows,
        identity: dict[str, object],
        key: str,
        model: Callable[[], nn.Module],
        store: Store,
        announce: Callable[[str], None],
    ) -> Path:
        work = store.work(KIND, key)
        parts = _parts(len(source))
        missing = [number for number in range(len(parts)) if not _part(work, number).exists()]
        who = self.companion.key if self.companion else "a model"
        done = len(parts) - len(missing)
        told = f", {done} of {len(parts)} parts are there" if done else ""
        announce(f"data: {who} reads the {len(source):,} rows of {source.source.name} once{told}")
        if missing:
            self._read(source, parts, missing, model(), work, announce)
        write_text(work / IDENTITY, json.dumps(identity, indent=2) + "\n")
        return store.publish(KIND, key, work)

    def _read(
        self,
        source: SourceRows,
        parts: Sequence[range],
        missing: Sequence[int],
        reader: nn.Module,
        work: Path,
        announce: Callable[[str], None],
    ) -> None:
        training = reader.training
        reader.eval()
        try:
            for number in missing:
                with write_folder(_part(work, number)) as folder, torch.no_grad():
                    _write_part(folder, self._annotated(source, parts[number], reader))
                if number == missing[0]:
                    _tell_size(_part(work, number), len(parts), len(missing), source, announce)
        finally:
            reader.train(training)

    def _annotated(self, source: SourceRows, rows: range, model: nn.Module) -> Iterator[Example]:
        """Yield the new columns of each row, in order."""
        device = next(model.parameters()).device
        for first in range(rows.start, rows.stop, self.batch_size):
            last = min(first + self.batch_size, rows.stop)
            examples = [source.row(index) for index in range(first, last)]
            batch = self.objective.collate(examples)
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            with autocast(self.precision, device.type):
                found = self.objective.annotate(model, batch)
            columns = {name: _array(tensor) for name, tensor in found.items()}
            for index, row in enumerate(examples):
                length = len(row["input_ids"])
                yield {name: column[index, :length] for name, column in columns.items()}


class Annotations:
    """The new columns of every row of a source, as read-only views of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: list[_Part] = []
        self._starts = [0]
        for place in sorted(folder.glob("part-*")):
            self._parts.append(_Part(place))
            self._starts.append(self._starts[-1] + len(self._parts[-1]))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> Example:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[part].read(row - self._starts[part])

    def __reduce__(self) -> tuple[type[Annotations], tuple[Path]]:
        return type(self), (self.folder,)


class _Part:
    """Some consecutive rows: a file for each column, and where each row begins in all of them."""

    def __init__(self, folder: Path) -> None:
        self.offsets = np.load(folder / "offsets.npy")
        self.columns = {
            path.stem: np.load(path, mmap_mode="r").view(np.ndarray)
            for path in folder.glob("*.npy")
            if path.stem != "offsets"
        }

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, row: int) -> Example:
        place = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        return {name: column[place] for name, column in self.columns.items()}


def content_of(folder: Path) -> str:
    """Return a digest of prepared examples: the same for other options that make the same ones."""
    others = ("held_out.jsonl", "rejected.jsonl", "facts.json")
    digests = file_digests(folder).items()
    return digest_json({name: digest for name, digest in digests if name not in others})


def _fitting(entries: Sequence[Path], wanted: dict[str, object], key: str, source: str) -> Path:
    """Return the entry that was made for what is wanted; say how the nearest one differs."""
    ignored = {"code", "precision"}  # of the machine that has written it
    if wanted["model"] is None:
        ignored.add("model")
    nearest: set[str] | None = None
    for entry in entries:
        found = json.loads((entry / IDENTITY).read_text(encoding="utf-8"))
        differs = {name for name in wanted if found.get(name) != wanted[name]} - ignored
        if not differs:
            return entry
        if nearest is None or len(differs) < len(nearest):
            nearest = differs
    told = " and ".join(_WORDS.get(name, f"another {name}") for name in sorted(nearest or ()))
    raise ConfigError(
        f"{key}: what is kept there was made for {told} than this run has, in the rows of "
        f"{source}; leave {key} out, and the model reads these rows itself"
    )


def _parts(rows: int) -> list[range]:
    """Return the rows of each part: the same whatever `data.batch_size` a run goes on with."""
    return [range(first, min(first + PART_ROWS, rows)) for first in range(0, rows, PART_ROWS)]


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}"


def _array(tensor: Tensor) -> np.ndarray:
    """Return a column as it is stored: in its own type, but no bfloat16, which numpy lacks."""
    tensor = tensor.float() if tensor.dtype in {torch.bfloat16, torch.float64} else tensor
    return tensor.cpu().numpy()


def _write_part(folder: Path, rows: Iterator[Example]) -> None:
    kept = [{name: column.copy() for name, column in row.items()} for row in rows]
    lengths = [len(next(iter(row.values()))) for row in kept]
    _save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    for name in kept[0]:
        if name == "offsets":
            raise DataError("an annotation may not be called offsets")
        _save(folder / f"{name}.npy", np.concatenate([row[name] for row in kept]))


def _save(path: Path, array: np.ndarray) -> None:
    """Write an array; not by np.save, which hides that the disk is full."""
    header = io.BytesIO()
    facts = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(header, facts)
    with path.open("wb") as file:
        file.write(header.getbuffer())
        file.write(np.ascontiguousarray(array).data)


def _tell_size(
    part: Path, parts: int, missing: int, source: SourceRows, announce: Callable[[str], None]
) -> None:
    """Say what all of it will take, after the first part; refuse what the disk has no room for."""
    size = folder_size(part)
    tokens = int(np.load(part / "offsets.npy")[-1])
    needed = size * (missing - 1)
    announce(
        f"data: {size / max(1, tokens):.0f} bytes a token, about {size * parts / 1e6:,.0f} MB for "
        f"{source.source.name}"
    )
    if needed > free_bytes(part):
        raise full_disk_error(part, needed)
