"""Answers to prompts with instructions, and how many of these they follow."""
# N prompts

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ontogeny.evaluated_rows import drawn, shipped_rows
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.generation import Decoding, require_generation, require_room, write
from ontogeny.intervals import share_metric, wilson
from ontogeny.prompts import prompts_of
from ontogeny_plugins.instruction_following import KEY, SHIPPED
from ontogeny_plugins.instruction_following.constraints import constraints_of, require_langdetect

if TYPE_CHECKING:
    from ontogeny.adapter import Bundle
    from ontogeny.objective import Row
    from ontogeny_plugins.instruction_following import InstructionFollowing

COLUMNS = (("prompt", "instructions"), ("prompt", "instruction_id_list", "kwargs"))


class InstructionEvaluator(Evaluator):
    """Lets the model answer, and verifies every instruction strictly and loosely."""

    columns: ClassVar[Sequence[Sequence[str]]] = ()

    def __init__(self, config: InstructionFollowing) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise for a model that cannot write, unknown instructions, and prompts too long."""
        require_generation(bundle.model, KEY)
        rows = self._rows(data)
        require_langdetect([each for row in rows for each in constraints_of(row)])
        prompts = [each.tokens for each in prompts_of(bundle, rows, self.config.template)]
        require_room(bundle.model, prompts, self.config.max_tokens, f"{KEY}.max_tokens")

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the shares of prompts and of instructions that are followed."""
        rows = self._rows(data)
        prompts = [each.tokens for each in prompts_of(bundle, rows, self.config.template)]
        decoding = Decoding(self.config.max_tokens, self.config.batch_size)
        answers = [written.text for written in write(bundle, prompts, decoding)]
        return accuracies(rows, answers)

    def _rows(self, data: EvaluationData) -> Sequence[Row]:
        path = self.config.path
        every = shipped_rows(path, COLUMNS) if path == SHIPPED else data.read(path, COLUMNS)
        return drawn("own", every, self.config.limit)


def accuracies(rows: Sequence[Row], answers: Sequence[str]) -> Metrics:
    """Return IFEval's four numbers: by prompt and by instruction, each strict and loose.

    A prompt counts when all of its instructions are followed.
    """
    pairs = [(constraints_of(row), answer) for row, answer in zip(rows, answers, strict=True)]
    strict = [[each.is_followed(answer) for each in given] for given, answer in pairs]
    loose = [[each.is_followed_loosely(answer) for each in given] for given, answer in pairs]
    return {**_shares("strict", strict), **_shares("loose", loose)}


def _shares(manner: str, followed: Sequence[Sequence[bool]]) -> Metrics:
    """Return the shares of prompts and of instructions.

    The interval of the latter is that of a share of so many prompts: instructions of a prompt share
    an answer, and might be followed all or none.
    """
    hits_N = np.array([sum(each) for each in followed])
    given_N = np.array([len(each) for each in followed])
    share = float(hits_N.sum() / given_N.sum())
    return {
        f"prompt_accuracy_{manner}": share_metric((hits_N == given_N).astype(float)),
        f"instruction_accuracy_{manner}": Metric(
            share, "1", *wilson(share * len(hits_N), len(hits_N))
        ),
    }
