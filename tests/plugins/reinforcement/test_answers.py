"""How the answers of a step are laid into rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ontogeny.objective import IGNORED, Batch, Example
from ontogeny_plugins.reinforcement.answers import microbatches


def examples(lengths: list[int]) -> list[Example]:
    """Return rows that are labelled all through, with their own numbers as tokens."""
    starts = np.cumsum(lengths) - lengths
    return [
        {
            "input_ids": np.full(length, number, np.int32),
            "labels": np.full(length, number, np.int32),
            "places": (start + np.arange(length)).astype(np.int32),
        }
        for number, (start, length) in enumerate(zip(starts.tolist(), lengths, strict=True))
    ]


def padded(batches: list[Batch]) -> int:
    return sum(batch["input_ids"].numel() for batch in batches)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("tokens", [40, 300, 4096])
def test_every_token_stands_in_one_place(packs: bool, tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 90, 50).tolist()
    batches = list(microbatches(examples(lengths), tokens, packs=packs))
    labelled = [batch["places"][batch["labels"] != IGNORED] for batch in batches]
    assert torch.equal(torch.cat(labelled).sort().values, torch.arange(sum(lengths)))
    for batch in batches:
        rows, longest = batch["input_ids"].shape
        assert rows == 1 or rows * longest <= tokens


@pytest.mark.parametrize("seed", range(5))
def test_packed_rows_have_little_padding_whatever_the_lengths(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(73, 193, 16).tolist()
    found = padded(list(microbatches(examples(lengths), 4096, packs=True)))
    assert found <= 1.15 * sum(lengths)
    assert found < padded(list(microbatches(examples(lengths), 4096, packs=False)))


def test_equally_long_answers_are_not_packed_into_long_rows() -> None:
    """Attention to a row costs the square of its length, and there is nothing to gain."""
    (batch,) = microbatches(examples([64] * 16), 4096, packs=True)
    assert batch["input_ids"].shape == (16, 64)
