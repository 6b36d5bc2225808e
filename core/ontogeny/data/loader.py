"""Steps out of rows: every optimiser step is a pure function of (seed, step, rank)."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ontogeny.interruption import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ontogeny.data.pipeline import TrainingRows
    from ontogeny.objective import Batch, Example, Objective


class StepSampler(Sampler[list[int]]):
    """Yields, for each step from `start`, the positions of this rank's rows of that step.

    A step takes `rows_per_step` consecutive positions of the endless stream, whatever the number
    of devices and of accumulated batches, so both can change without changing the data.
    """

    def __init__(
        self, steps: int, batch_size: int, accumulate: int, rank: int = 0, world: int = 1
    ) -> None:
        self.steps = steps
        self.start = 0  # set when a training state is loaded
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.rank = rank
        self.world = world

    @property
    def rows_at_once(self) -> int:
        """Rows of one batch on every rank."""
        return self.batch_size * self.world

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimiser step over all ranks and accumulated batches."""
        return self.rows_at_once * self.accumulate

    def __len__(self) -> int:
        """Count all steps of the run, those before `start` included, as Lightning counts."""
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        """Yield positions, step by step."""
        for step in range(self.start, self.steps):
            yield self.positions(step)

    def positions(self, step: int) -> list[int]:
        """Return the positions of this rank in one step, batch after batch."""
        first = step * self.rows_per_step
        return [
            first + (batch * self.world + self.rank) * self.batch_size + row
            for batch in range(self.accumulate)
            for row in range(self.batch_size)
        ]


class _StepRows(Dataset["Example"]):
    def __init__(self, rows: TrainingRows) -> None:
        self.rows = rows

    def __getitem__(self, position: int) -> Example:
        return self.rows[position]


class _StepCollation:
    """Cuts the rows of a step into the batches that are accumulated."""

    def __init__(self, objective: Objective, batch_size: int) -> None:
        self.objective = objective
        self.batch_size = batch_size

    def __call__(self, examples: Sequence[Example]) -> list[Batch]:
        starts = range(0, len(examples), self.batch_size)
        return [self.objective.collate(examples[i : i + self.batch_size]) for i in starts]


def step_loader(
    rows: TrainingRows, objective: Objective, sampler: StepSampler, workers: int
) -> DataLoader[Example]:
    """Return a loader whose items are the batches of one optimiser step each."""
    return DataLoader(
        _StepRows(rows),
        batch_sampler=sampler,
        collate_fn=_StepCollation(objective, sampler.batch_size),
        num_workers=workers,
        # A private generator: otherwise each new iterator draws from the global one.
        generator=torch.Generator().manual_seed(0),
        timeout=300 if workers else 0,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_leave_signals_to_the_parent,
    )


def _leave_signals_to_the_parent(_: int) -> None:
    """Let a signal to the whole process group end no worker: the run goes on to a step border."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
