"""Bradley-Terry: the probability that an answer is preferred is σ of the difference of rewards."""
# P pairs

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from ontogeny.chat.pairs import COLUMNS, pairs_of
from ontogeny.errors import RowError
from ontogeny.objective import Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny.preflight import Proof
from ontogeny_plugins.reward_modeling.scoring import collate_answers, rewards

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.data.corpus import Corpus
    from ontogeny_plugins.reward_modeling import BradleyTerry


class BradleyTerryObjective(Objective):
    """Trains on rows of prompt, chosen and rejected; a column `margin` says by how much, if any."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS
    long_examples: ClassVar[LongExamples] = "leave_out"  # a cut would fall on the rejected answer

    def __init__(self, config: BradleyTerry) -> None:
        self.config = config

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Say that there is one output, whatever head gives it."""
        del corpus
        return {"labels": ["reward"], "problem_type": "regression"}

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Yield both answers after one prompt as a branched row, with the margin."""
        margins = [_margin(row, index) for index, row in enumerate(rows)]
        for margin, pair in zip(margins, pairs_of(rows, tokenizer), strict=True):
            yield {**pair.branched(), "margin": np.array(margin, np.float32)}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return input_ids of both answers of each pair, [2P, T], and margins, [P]."""
        margins_P = torch.tensor([float(example["margin"]) for example in examples])
        return {**collate_answers(examples), "margin": margins_P}

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ -log σ(Δ - margin) + c (r_w + r_l)² over pairs, and how often Δ > 0."""
        found = rewards(model, batch)
        chosen_P, rejected_P = found[0::2], found[1::2]
        difference_P = chosen_P - rejected_P
        losses_P = -logsigmoid(difference_P - batch["margin"])
        if self.config.centre:
            losses_P = losses_P + self.config.centre * (chosen_P + rejected_P) ** 2
        metrics = {
            "reward_accuracy": (difference_P > 0).float().sum(),
            "reward_margin": difference_P.sum(),
            "reward_chosen": chosen_P.sum(),
            "reward_rejected": rejected_P.sum(),
        }
        weight = torch.tensor(float(len(chosen_P)), device=found.device)
        return Loss(losses_P.sum(), weight, metrics)

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that a head of zeros starts at ln 2."""
        name = "the loss starts at ln 2"
        with torch.no_grad():
            largest = float(rewards(model, batch).abs().max())
            loss = self.loss(model, {**batch, "margin": torch.zeros_like(batch["margin"])})
            found = float(loss.total / loss.weight)
        if largest:
            yield Proof(name, None, f"the head gives rewards up to {largest:.3g} already")
            return
        yield Proof(name, abs(found - math.log(2)) < 1e-6, f"{found:.6f}")


def _margin(row: Row, index: int) -> float:
    value = row.get("margin", 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(index, f"margin is {value!r}; expected a number")
    return float(value)
