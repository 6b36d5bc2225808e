"""In-context learning: choices by their likelihood, other answers as they are written."""
# N rows

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ontogeny.choices import Question, answer, pairs_of
from ontogeny.continuation_scores import require_choices, require_fit
from ontogeny.errors import DataError
from ontogeny.evaluated_rows import EvaluatedRows, rows_to_evaluate
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics
from ontogeny.generation import Decoding, require_generation, require_room, write
from ontogeny.intervals import share_metric
from ontogeny.prompts import plain_tokens
from ontogeny_plugins.few_shot import KEY
from ontogeny_plugins.few_shot.contexts import Item, contexts_of, item_of

if TYPE_CHECKING:
    from ontogeny.adapter import Bundle
    from ontogeny_plugins.few_shot import FewShot

COLUMNS = (
    ("question", "choices", "answer"),
    ("prompt", "choices", "answer"),
    ("question", "answer"),
    ("prompt", "answer"),
    ("prompt", "completion"),
)


class FewShotEvaluator(Evaluator):
    """Puts k demonstrations before every question, and sees whether the answer is right."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS

    def __init__(self, config: FewShot) -> None:
        self.config = config
        if config.path is not None:
            self.columns = ()  # type: ignore[misc]  # its own rows, none of the data's

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise for a model that cannot answer, bad rows, and contexts that are too long."""
        items, contexts = self._questions(self._rows(data), data)
        if items[0].choices:
            require_choices(bundle.model, KEY)
            pairs = pairs_of(bundle.tokenizer, self._with_choices(items, contexts))
            require_fit(bundle.model, pairs, f"{KEY}.k is {self.config.k}")
        else:
            require_generation(bundle.model, KEY)
            tokens = [plain_tokens(bundle, context) for context in contexts]
            require_room(bundle.model, tokens, self.config.max_tokens, f"{KEY}.max_tokens")

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return accuracies where there are choices, else exact_match; by source too."""
        rows = self._rows(data)
        items, contexts = self._questions(rows, data)
        if not items[0].choices:
            right_N = self._written(bundle, items, contexts)
            return rows.metrics(lambda indices_N: {"exact_match": share_metric(right_N[indices_N])})
        answered = answer(
            bundle,
            self._with_choices(items, contexts),
            batch_size=self.config.batch_size,
            per_token=self.config.normalise == "tokens",
        )
        return rows.metrics(answered.metrics)

    def _rows(self, data: EvaluationData) -> EvaluatedRows:
        return rows_to_evaluate(data, self.config.path, COLUMNS, self.config.limit, KEY)

    def _questions(self, rows: EvaluatedRows, data: EvaluationData) -> tuple[list[Item], list[str]]:
        """Return the items and their contexts; raise DataError where only some have choices."""
        items = [item_of(row) for row in rows.rows]
        if len({bool(item.choices) for item in items}) > 1:
            msg = f"{KEY}: some rows have choices and some have none; evaluate them apart"
            raise DataError(msg)
        return items, contexts_of(items, self._pools(rows.sources, data), self.config)

    def _pools(self, sources: Sequence[str], data: EvaluationData) -> list[list[Item]]:
        """Return what the demonstrations of each question are drawn from.

        That is the file that is named for them, else the question's own source: all of it, of
        which `limit` leaves some out as questions. Another source may well be another task.
        """
        if self.config.demonstrations is not None:
            found = data.read(self.config.demonstrations, COLUMNS)
            return [[item_of(row) for row in found]] * len(sources)
        everything = rows_to_evaluate(data, self.config.path, COLUMNS, None, KEY)
        pools: dict[str, list[Item]] = {name: [] for name in sources}
        for row, source in zip(everything.rows, everything.sources, strict=True):
            pools[source].append(item_of(row))
        return [pools[source] for source in sources]

    def _with_choices(self, items: Sequence[Item], contexts: Sequence[str]) -> list[Question]:
        before = self.config.before_answer
        return [
            Question(context, tuple(before + choice for choice in item.choices), item.index)
            for item, context in zip(items, contexts, strict=True)
        ]

    def _written(
        self, bundle: Bundle, items: Sequence[Item], contexts: Sequence[str]
    ) -> np.ndarray:
        """Let the model write the answers; return 1 for each right one, else 0: [N]."""
        options = self.config
        decoding = Decoding(options.max_tokens, options.batch_size, stops=(options.between,))
        tokens = [plain_tokens(bundle, context) for context in contexts]
        texts = [written.text.strip() for written in write(bundle, tokens, decoding)]
        pairs = zip(texts, items, strict=True)
        return np.array([float(text == item.answer) for text, item in pairs])
