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
from ontogeny.errors import ConfigError
from ontogeny.generation import Decoding, require_room, write
from ontogeny.objective import IGNORED, Loss
from ontogeny.preflight import Proof, future_proof, vocabulary_proof
from ontogeny_plugins.distillation.features import Features
from ontogeny_plugins.distillation.lesson import Lesson
from ontogeny_plugins.distillation.replay import Answer, Replay
from ontogeny_plugins.distillation.student_share import StudentShare
from ontogeny_plugins.distillation.writing import (
    WritingObjective,
    drawn_seed,
    examples_of_batch,
    on_device,
    prompts_of,
    written_example,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import lightning as L
    from torch import nn

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny.evaluator import Metrics
    from ontogeny.objective import Batch
    from ontogeny_plugins.distillation import OnPolicyDistillation

OWN = "data_tokens"  # column: 1.0 where the tokens are those of the data


class GKDObjective(WritingObjective):
    """A share of the rows has answers of the student; the teacher says what should follow."""

    name: ClassVar[str] = "gkd"

    def __init__(self, config: OnPolicyDistillation) -> None:
        super().__init__(config.prompt_tokens)
        self.config = config
        self.student_share, self.max_tokens = config.student_share, config.max_tokens
        self.adaptive: StudentShare | None = None
        self.replay = Replay(config.replay, steps=1) if config.replay else None
        self.temperature = config.sampling_temperature
        self.lesson = Lesson(config, Features())

    def begin(self, companions: Companions) -> None:
        """Take the teacher; raise ConfigError where there is none, or one with other tokens."""
        super().begin(companions)
        self.lesson.begin(companions)
        if self.config.share_step:
            self.adaptive = self._adaptive(companions)

    def evaluated(self, results: Mapping[str, Metrics]) -> None:
        """Raise the share of the student where it is time."""
        if self.adaptive is not None:
            self.adaptive.look(results)

    def callbacks(self, steps: int) -> Iterable[L.Callback]:
        """Return what changes with the training: the share of the student, and kept answers."""
        if self.replay is not None:
            self.replay.steps = steps
        return [each for each in (self.adaptive, self.replay) if each is not None]

    def experience(self, policy: nn.Module, batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
        """Let the student write the answers of some rows; yield one step of all."""
        del policy
        yield [self._mixed(batch, drawn_seed()) for batch in batches]

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ over the tokens of answers, the student's and the data's, and their number."""
        loss = self.lesson.loss(model, batch, batch["labels"], hard_BT=batch.get(OWN))
        if OWN not in batch:  # as the data have it, in the preflight
            return loss
        written_BT = (batch[OWN] == 0) & (batch["labels"] != IGNORED)
        rows = torch.full_like(loss.total, len(written_BT))
        metrics = {**loss.metrics, "student_share": (written_BT.any(1).sum(), rows)}
        return Loss(loss.total, loss.weight, metrics)

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model is causal and its chunked loss exact."""
        yield future_proof(model, batch, causal=is_causal(model))
        yield vocabulary_proof(model, batch)
        yield self.lesson.same_proof(batch, batch["labels"])

    def _mixed(self, batch: Batch, seed: int) -> Batch:
        """Return a batch in which the student has written some of the answers."""
        examples, prompts = examples_of_batch(batch), prompts_of(batch)
        share = self.student_share if self.adaptive is None else self.adaptive.share
        drawn = torch.rand(len(examples)) < share
        rows: list[int] = drawn.nonzero().squeeze(1).tolist()
        old = self._old_answers(rows)
        new = self._new_answers({row: prompts[row] for row in rows if row not in old}, seed)
        for row, (prompt, tokens) in {**old, **new}.items():
            examples[row] = written_example(prompt, tokens)
        for row, example in enumerate(examples):
            example[OWN] = np.full(len(example["labels"]), 0.0 if drawn[row] else 1.0, np.float32)
        return on_device(collate_tokens(examples), batch["input_ids"])

    def _old_answers(self, rows: Sequence[int]) -> dict[int, Answer]:
        """Return answers of before for some of the rows."""
        replay = self.replay
        if replay is None or not replay.share:
            return {}
        again = torch.rand(len(rows)) < replay.share
        return {row: replay.draw() for row, is_old in zip(rows, again, strict=True) if is_old}

    def _new_answers(self, prompts: Mapping[int, list[int]], seed: int) -> dict[int, Answer]:
        """Let the student answer the prompts of rows, and keep that for later."""
        if not prompts:
            return {}
        decoding = Decoding(
            max_tokens=self.max_tokens,
            batch_size=len(prompts),
            temperature=self.temperature,
            seed=seed,
        )
        bundle, asked = cast("Bundle", self.bundle), [*prompts.values()]
        require_room(bundle.model, asked, decoding.max_tokens, "objective.max_tokens")
        found = write(bundle, asked, decoding)
        written = [(prompt, each.tokens) for prompt, each in zip(asked, found, strict=True)]
        if self.replay is not None:
            for prompt, tokens in written:
                self.replay.add(prompt, tokens)
        return dict(zip(prompts, written, strict=True))

    def _adaptive(self, companions: Companions) -> StudentShare:
        config = self.config
        if not companions.config.trainer.evaluate_every:
            raise ConfigError(
                f"objective.share_step is {config.share_step}, but trainer.evaluate_every is 0: "
                f"the share rises when evaluations get worse, and there are none"
            )
        metric, tolerance = config.share_monitor, config.share_tolerance
        return StudentShare(
            self.student_share, config.share_step, metric, tolerance, companions.announce
        )
