"""What another model says of the training rows: computed once, kept by content, merged in."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from ontogeny.data.examples import Examples, ExampleWriter
from ontogeny.digest import digest_json
from ontogeny.folders import file_digests
from ontogeny.precision import autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import nn

    from ontogeny.companions import Companion
    from ontogeny.data.pipeline import SourceRows, TrainingRows
    from ontogeny.objective import Example, Objective
    from ontogeny.store import Store

KIND = "annotations"  # of the store


class Annotation:
    """One pass of a model over all training rows of a run."""

    def __init__(
        self, objective: Objective, companion: Companion, code: str, precision: str, batch_size: int
    ) -> None:
        self.objective = objective
        self.companion = companion
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
            key = digest_json(self._identity(source))
            if store.get(KIND, key) is None:
                announce(
                    f"data: {self.companion.key} reads the {len(source):,} rows of "
                    f"{source.source.name} once"
                )
            folder = store.create(KIND, key, partial(self._write, source, model))
            source.annotations = Examples(folder)

    def _identity(self, source: SourceRows) -> dict[str, object]:
        """Return all that decides the result: options of the loss alone are no part of it."""
        return {
            "rows": source.identity(),
            "content": content_of(source.source.folder),
            "model": self.companion.digest,
            "objective": type(self.objective).__qualname__,
            "code": self.code,
            "precision": self.precision,
            "version": 1,
        }

    def _write(self, source: SourceRows, model: Callable[[], nn.Module], folder: Path) -> None:
        reader = model()
        training = reader.training
        reader.eval()
        try:
            with ExampleWriter(folder) as writer, torch.no_grad():
                for row in self._annotated(source, reader):
                    writer.add(row)
        finally:
            reader.train(training)

    def _annotated(self, source: SourceRows, model: nn.Module) -> Iterator[Example]:
        """Yield the new columns of each row, in order."""
        device = next(model.parameters()).device
        for first in range(0, len(source), self.batch_size):
            last = min(first + self.batch_size, len(source))
            rows = [source.row(index) for index in range(first, last)]
            batch = self.objective.collate(rows)
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            with autocast(self.precision, device.type):
                found = self.objective.annotate(model, batch)
            columns = {name: tensor.float().cpu().numpy() for name, tensor in found.items()}
            for index, row in enumerate(rows):
                length = len(row["input_ids"])
                yield {name: column[index, :length] for name, column in columns.items()}


def content_of(folder: Path) -> str:
    """Return a digest of prepared examples: the same for other options that make the same ones."""
    others = ("held_out.jsonl", "rejected.jsonl", "facts.json")
    digests = file_digests(folder).items()
    return digest_json({name: digest for name, digest in digests if name not in others})
