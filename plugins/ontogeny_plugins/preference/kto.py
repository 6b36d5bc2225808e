"""Kahneman-Tversky optimisation: single answers, each with a label, against a baseline."""
# B rows, T tokens, N scored tokens, P answers of a batch

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ontogeny.chat.answers import answer_text
from ontogeny.chat.conversation import UnfitError
from ontogeny.chat.encoding import examples_of
from ontogeny.chat.pairs import CHOSEN, REJECTED
from ontogeny.chat.template import ChatTemplate
from ontogeny.errors import RowError
from ontogeny.objective import IGNORED, Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny_plugins.preference.reference import COLUMN, Reference
from ontogeny_plugins.preference.scoring import (
    answer_sums,
    collate_pairs,
    in_place,
    token_log_probs,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.companions import Companion, Companions
    from ontogeny_plugins.preference import KTO

GOOD = {True: 1, False: 0, "true": 1, "false": 0, "1": 1, "0": 0}  # 1 and 0 are equal to these


class KTOObjective(Objective):
    """Trains on rows of prompt, completion and label (true: a good answer).

    With baseline=batch each row of the batch also has the answer to another prompt, that of the row
    after it: how much likelier the model has made such answers is what a good one must exceed.
    """

    columns: ClassVar[Sequence[Sequence[str]]] = (("prompt", "completion", "label"),)
    long_examples: ClassVar[LongExamples] = "leave_out"

    def __init__(self, config: KTO) -> None:
        self.config = config
        self.reference = Reference(config.reference)
        # By its options: of mismatched pairs, the rows of a batch depend on each other.
        self.rows_are_independent = config.baseline == "zero"  # type: ignore[misc]

    def begin(self, companions: Companions) -> None:
        """Take the reference."""
        self.reference.begin(companions)

    def annotator(self) -> Companion | None:
        """Return the reference where it reads all rows once."""
        return self.reference.annotator()

    def annotate(self, model: nn.Module, batch: Batch) -> Batch:
        """Return the reference's log p of every scored token: [B, T]."""
        return {COLUMN: in_place(token_log_probs(model, batch), batch)}

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Yield input_ids and labels, [T], and whether the answer is a good one."""
        template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        texts, good = [], []
        for index, row in enumerate(rows):
            try:
                texts.append(answer_text(row, template))
                good.append(_label(row["label"]))
            except UnfitError as error:
                raise RowError(index, str(error)) from error
        examples = zip(examples_of(texts, tokenizer), good, strict=True)
        for index, (example, label) in enumerate(examples):
            if not (example["labels"] != IGNORED).any():
                raise RowError(index, "no token of the answer can be scored")
            yield {**example, "good": np.array(label, np.int32)}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Give every row the answer of the next one as its second branch."""
        mismatched = self.config.baseline == "batch" and len(examples) > 1
        rows = []
        for index, example in enumerate(examples):
            other = examples[(index + 1) % len(examples)] if mismatched else None
            rows.append(_branched(example, other))
        return collate_pairs(rows, share_prompt=self.config.share_prompt)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ λ(1 - σ(±(r - z0))) over answers, z0 ≥ 0 (Ethayarajh et al. 2024, eq. 8)."""
        log_probs_N = token_log_probs(model, batch)
        reference_N = self.reference.log_probs(model, batch, token_log_probs)
        own_P, others_P = answer_sums(log_probs_N - reference_N, batch)
        baseline = self.config.beta * others_P.detach().mean().clamp(min=0)
        rewards_P = self.config.beta * own_P
        good_P = batch["good"].bool()
        sign_P = torch.where(good_P, 1.0, -1.0)
        weight_P = torch.where(good_P, self.config.desirable_weight, self.config.undesirable_weight)
        losses_P = weight_P * (1 - torch.sigmoid(sign_P * (rewards_P - baseline)))
        return Loss(losses_P.sum(), batch["pairs"].sum(), _metrics(rewards_P, good_P, baseline))


def _metrics(
    rewards_P: Tensor, good_P: Tensor, baseline: Tensor
) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    good_P = good_P.float()
    return {
        "reward_good": ((rewards_P * good_P).sum(), good_P.sum()),
        "reward_bad": ((rewards_P * (1 - good_P)).sum(), (1 - good_P).sum()),
        "baseline": baseline * len(rewards_P),
    }


def _branched(example: Example, other: Example | None) -> Example:
    """Return a row with its own answer as one branch, and another row's as the second."""
    first, tail = _split(example)
    parts = [_part(example, slice(first), 0), _part(example, slice(first, None), CHOSEN)]
    if other is not None:
        begin, _ = _split(other)
        mismatched = _part(other, slice(begin, None), REJECTED)
        mismatched["input_ids"] = mismatched["input_ids"].copy()
        mismatched["input_ids"][0] = tail  # it is predicted from this prompt's last token
        parts.append(mismatched)
    row = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {**row, **{name: value for name, value in example.items() if value.ndim == 0}}


def _split(example: Example) -> tuple[int, int]:
    """Return where the answer is predicted from, and the token that stands there."""
    first = int((example["labels"] != IGNORED).argmax())
    return first, int(example["input_ids"][first])


def _part(example: Example, tokens: slice, branch: int) -> Example:
    part = {name: values[tokens] for name, values in example.items() if values.ndim == 1}
    part["branch_ids"] = np.full(len(part["input_ids"]), branch, np.int32)
    return part


def _label(value: object) -> int:
    """Return 1 for a good answer, 0 for a bad one."""
    known = value.lower() if isinstance(value, str) else value
    if not isinstance(known, str | int | bool) or known not in GOOD:
        msg = f"label is {value!r}; expected true for a good answer, false for a bad one"
        raise UnfitError(msg)
    return GOOD[known]
