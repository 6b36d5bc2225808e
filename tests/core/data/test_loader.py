"""Steps are a pure function of their number, however the work is divided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import cast

import numpy as np
import pytest
from torch import nn

from ontogeny.data.collation import collate_tokens
from ontogeny.data.loader import StepSampler, step_loader
from ontogeny.data.pipeline import TrainingRows
from ontogeny.objective import Batch, Example, Loss, Objective

ROWS_PER_STEP = 12
DIVISIONS = [
    (world, batch, accumulate)
    for world, batch, accumulate in product((1, 2, 3, 4, 6, 12), repeat=3)
    if world * batch * accumulate == ROWS_PER_STEP
]


class Numbers:
    """An endless stream of rows: at position p the row holds p."""

    def __getitem__(self, position: int) -> Example:
        return {"input_ids": np.array([position]), "labels": np.array([position])}


class Collate(Objective):
    """An objective that only collates."""

    def prepare(self, rows: object, tokenizer: object) -> Iterable[Example]:
        raise NotImplementedError

    def collate(self, examples: Sequence[Example]) -> Batch:
        return collate_tokens(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        raise NotImplementedError


def loaded(sampler: StepSampler, workers: int = 0) -> list[list[list[int]]]:
    """Return the rows of every batch of every step."""
    loader = step_loader(cast("TrainingRows", Numbers()), Collate(), sampler, workers)
    steps = cast("Iterable[list[Batch]]", loader)
    return [[batch["input_ids"].squeeze(1).tolist() for batch in batches] for batches in steps]


@pytest.mark.parametrize(("world", "batch", "accumulate"), DIVISIONS)
def test_every_division_of_a_step_takes_the_same_rows(
    world: int, batch: int, accumulate: int
) -> None:
    for step in (0, 1, 7):
        taken = [
            position
            for rank in range(world)
            for position in StepSampler(9, batch, accumulate, rank, world).positions(step)
        ]
        assert sorted(taken) == list(range(step * ROWS_PER_STEP, (step + 1) * ROWS_PER_STEP))


@pytest.mark.parametrize(("world", "batch", "accumulate"), DIVISIONS)
def test_the_batches_that_all_ranks_see_at_once_are_consecutive(
    world: int, batch: int, accumulate: int
) -> None:
    ranks = [StepSampler(2, batch, accumulate, rank, world).positions(1) for rank in range(world)]
    for number in range(accumulate):
        rows = slice(number * batch, (number + 1) * batch)
        together = sorted(position for positions in ranks for position in positions[rows])
        first = ROWS_PER_STEP + number * batch * world
        assert together == list(range(first, first + batch * world))


def test_a_sampler_begins_where_a_training_state_ended() -> None:
    whole, rest = StepSampler(6, 2, 2), StepSampler(6, 2, 2)
    rest.start = 4
    assert list(rest) == list(whole)[4:]
    assert len(rest) == len(whole) == 6


def test_an_item_of_the_loader_is_the_batches_of_a_step() -> None:
    assert loaded(StepSampler(2, 2, 3)) == [
        [[0, 1], [2, 3], [4, 5]],
        [[6, 7], [8, 9], [10, 11]],
    ]


def test_every_rank_loads_its_own_part() -> None:
    assert loaded(StepSampler(1, 2, 2, rank=0, world=2)) == [[[0, 1], [4, 5]]]
    assert loaded(StepSampler(1, 2, 2, rank=1, world=2)) == [[[2, 3], [6, 7]]]


def test_loading_draws_nothing_from_the_global_generator() -> None:
    import torch

    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded(StepSampler(3, 2, 1))
    assert torch.equal(torch.get_rng_state(), before)
