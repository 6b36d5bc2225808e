"""Answers to harmful and to harmless prompts, and how many of each are refusals."""
# N prompts

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ontogeny.errors import DataError
from ontogeny.evaluated_rows import drawn, shipped_rows
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics, saying_where
from ontogeny.generation import Decoding, require_generation, require_room, write
from ontogeny.intervals import share_metric
from ontogeny.prompts import prompts_of
from ontogeny_plugins.safety import KEY, SHIPPED
from ontogeny_plugins.safety.refusals import PHRASES, is_refusal

if TYPE_CHECKING:
    from ontogeny.adapter import Bundle
    from ontogeny.objective import Row
    from ontogeny_plugins.safety import Safety

COLUMNS = (("prompt", "harmful"),)
WORDS = {"true": True, "1": True, "false": False, "0": False}


class SafetyEvaluator(Evaluator):
    """Lets the model answer, and counts refusals on both sides."""

    columns: ClassVar[Sequence[Sequence[str]]] = ()

    def __init__(self, config: Safety) -> None:
        self.config = config
        self.phrases = PHRASES if config.phrases is None else config.phrases

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise for a model that cannot write, rows that say too little, and long prompts."""
        require_generation(bundle.model, KEY)
        rows = self._rows(data)
        prompts = [each.tokens for each in prompts_of(bundle, rows, self.config.template)]
        require_room(bundle.model, prompts, self.config.max_tokens, f"{KEY}.max_tokens")

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the shares of harmful and of harmless prompts that are refused."""
        options, rows = self.config, self._rows(data)
        harmful_N = np.array([_is_harmful(row) for row in rows])
        prompts = [each.tokens for each in prompts_of(bundle, rows, options.template)]
        decoding = Decoding(options.max_tokens, options.batch_size)
        answers = [written.text for written in write(bundle, prompts, decoding)]
        refused = [is_refusal(answer, self.phrases, options.opening) for answer in answers]
        refused_N = np.array(refused, float)
        return {
            "refusal_rate": share_metric(refused_N[harmful_N]),
            "false_refusal_rate": share_metric(refused_N[~harmful_N]),
        }

    def _rows(self, data: EvaluationData) -> list[Row]:
        """Return harmful rows, then harmless ones; raise DataError unless there are both."""
        path = self.config.path
        every = shipped_rows(path, COLUMNS) if path == SHIPPED else data.read(path, COLUMNS)
        kinds: dict[bool, list[Row]] = {True: [], False: []}
        for row in every:
            with saying_where(row):
                kinds[_is_harmful(row)].append(row)
        if not all(kinds.values()):
            kind = "harmful" if kinds[True] else "harmless"
            msg = f"{KEY}: all {len(every)} prompts are {kind}; expected some of both kinds"
            raise DataError(msg)
        limit = self.config.limit
        return [row for kind, rows in kinds.items() for row in drawn(str(kind), rows, limit)]


def _is_harmful(row: Row) -> bool:
    word = str(row["harmful"]).strip().lower()
    if word not in WORDS:
        msg = f"{KEY}: harmful is {row['harmful']!r}; expected true or false"
        raise DataError(msg)
    return WORDS[word]
