"""A step of masked language modelling against the same step on full logits, in one run."""
# B rows, T tokens

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, BertConfig, PreTrainedModel

from ontogeny.objective import IGNORED, Batch
from ontogeny.seeding import seed_everything
from ontogeny_plugins.mlm import MLM
from ontogeny_plugins.mlm.objective import MaskedLM

ROWS, LENGTH, VOCABULARY, WARM_UP, STEPS = 16, 128, 30_522, 2, 15
OBJECTIVE = MaskedLM(MLM())
Way = Callable[[PreTrainedModel, Batch], tuple[Tensor, Tensor]]


def ours(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Draw masks, and let only masked positions reach the output layer."""
    loss = OBJECTIVE.loss(model, batch)
    return loss.total, loss.weight


def full_logits(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Draw the same masks, and let the library compute the mean over full logits."""
    masked = OBJECTIVE.masked(batch)
    count = (masked["labels"] != IGNORED).sum()
    loss = model(input_ids=masked["input_ids"], labels=masked["labels"]).loss
    return loss * count, count


class Training:
    """A model that is trained in one way, step by step."""

    def __init__(self, way: Way, precision: torch.dtype) -> None:
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
        self.model: PreTrainedModel = AutoModelForMaskedLM.from_config(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.way, self.precision = way, precision
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def step(self, number: int) -> None:
        """Make one optimiser step on a batch of its own, timed."""
        batch = rows(number)
        seed_everything("step", number)
        start = time.perf_counter()
        with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
            total, weight = self.way(self.model, batch)
        (total / weight).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(float((total / weight).detach()))

    @property
    def milliseconds(self) -> float:
        """The median of the steps after the first few."""
        return 1000 * statistics.median(self.seconds[WARM_UP:])


def rows(number: int) -> Batch:
    """Return random tokens between two special ones, [B, T]."""
    generator = torch.Generator().manual_seed(number)
    ids_BT = torch.randint(1000, VOCABULARY, (ROWS, LENGTH), generator=generator)
    units_BT = torch.arange(LENGTH).repeat(ROWS, 1)
    units_BT[:, -1] = 0
    vocabulary = torch.tensor([103, 999, VOCABULARY])
    return {"input_ids": ids_BT, "units": units_BT, "vocabulary": vocabulary}


@pytest.mark.benchmark
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_step_costs_six_tenths_of_one_on_full_logits_at_most(precision: torch.dtype) -> None:
    trainings = [Training(way, precision) for way in (ours, full_logits)]
    for number in range(WARM_UP + STEPS):
        for each in trainings:  # taken in turns: a machine drifts
            each.step(number)
    mine, theirs = trainings
    ratio = mine.milliseconds / theirs.milliseconds
    print(
        f"{precision}: {mine.milliseconds:.1f} ms a step, on full logits "
        f"{theirs.milliseconds:.1f} ms: {ratio:.2f}"
    )
    # The same masks, and so the same training but for rounding.
    tolerance = 1e-4 if precision == torch.float32 else 3e-2
    assert mine.losses == pytest.approx(theirs.losses, rel=tolerance)
    assert ratio <= 0.6
