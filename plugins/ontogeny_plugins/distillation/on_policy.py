"""Generalised knowledge distillation: the teacher judges what the student writes.

Agarwal et al. 2024, "On-Policy Distillation of Language Models", algorithm 1.
"""
# B rows, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from ontogeny.attention import is_causal
from ontogeny.data.collation import collate_tokens
from ontogeny.generation import Decoding, require_room, write
from ontogeny.preflight import Proof, future_proof, vocabulary_proof
from ontogeny_plugins.distillation.features import Features
from ontogeny_plugins.distillation.lesson import Lesson
from ontogeny_plugins.distillation.writing import (
    WritingObjective,
    drawn_seed,
    examples_of_batch,
    on_device,
    prompts_of,
    written_example,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny.objective import Batch, Loss
    from ontogeny_plugins.distillation import OnPolicyDistillation

OWN = "data_tokens"  # column: 1.0 where the tokens are those of the data


class GKDObjective(WritingObjective):
    """A share of the rows has answers of the student; the teacher says what should follow."""

    name: ClassVar[str] = "gkd"

    def __init__(self, config: OnPolicyDistillation) -> None:
        super().__init__(config.prompt_tokens)
        self.student_share, self.max_tokens = config.student_share, config.max_tokens
        self.temperature = config.sampling_temperature
        self.lesson = Lesson(config, Features())

    def begin(self, companions: Companions) -> None:
        """Take the teacher; raise ConfigError where there is none, or one with other tokens."""
        super().begin(companions)
        self.lesson.begin(companions)

    def experience(self, policy: nn.Module, batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
        """Let the student write the answers of some rows; yield one step of all."""
        del policy
        yield [self._mixed(batch, drawn_seed()) for batch in batches]

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ over the tokens of answers, the student's and the data's, and their number."""
        return self.lesson.loss(model, batch, batch["labels"], hard_BT=batch.get(OWN))

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model is causal and its chunked loss exact."""
        yield future_proof(model, batch, causal=is_causal(model))
        yield vocabulary_proof(model, batch)
        yield self.lesson.same_proof(batch, batch["labels"])

    def _mixed(self, batch: Batch, seed: int) -> Batch:
        """Return a batch in which the student has written some of the answers."""
        examples, prompts = examples_of_batch(batch), prompts_of(batch)
        drawn = torch.rand(len(examples)) < self.student_share
        chosen = drawn.nonzero().squeeze(1).tolist()
        decoding = Decoding(
            max_tokens=self.max_tokens,
            batch_size=max(1, len(chosen)),
            temperature=self.temperature,
            seed=seed,
        )
        bundle, asked = cast("Bundle", self.bundle), [prompts[row] for row in chosen]
        require_room(bundle.model, asked, decoding.max_tokens, "objective.max_tokens")
        found = write(bundle, asked, decoding) if chosen else []
        for row, answer in zip(chosen, found, strict=True):
            examples[row] = written_example(prompts[row], answer.tokens)
        for row, example in enumerate(examples):
            example[OWN] = np.full(len(example["labels"]), 0.0 if drawn[row] else 1.0, np.float32)
        return on_device(collate_tokens(examples), batch["input_ids"])
