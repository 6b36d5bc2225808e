"""What a model knows of a field: the right word among others, and the right word at once."""
# N questions

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ontogeny.choices import Question, answer, answer_index, choice_texts, pairs_of
from ontogeny.continuation_scores import require_choices, require_fit, score_continuations
from ontogeny.errors import DataError
from ontogeny.evaluated_rows import EvaluatedRows, rows_to_evaluate
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics, saying_where
from ontogeny.intervals import exact, share_metric
from ontogeny_plugins.domain_accuracy import KEY
from ontogeny_plugins.domain_accuracy.questions import QuestionMaker

if TYPE_CHECKING:
    from ontogeny.adapter import Bundle
    from ontogeny.objective import Row
    from ontogeny_plugins.domain_accuracy import DomainAccuracy

COLUMNS = (("prompt", "choices", "answer"), ("question", "choices", "answer"), ("text",))


@dataclass(frozen=True)
class Asked:
    """The questions that rows gave, with the words that stand in their gaps."""

    rows: EvaluatedRows  # those that gave a question
    questions: list[Question]
    words: list[Question]  # the same contexts, with nothing but the right word to choose


class DomainAccuracyEvaluator(Evaluator):
    """Asks for words of the text, or the questions that are given."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS

    def __init__(self, config: DomainAccuracy) -> None:
        self.config = config
        if config.path is not None:
            self.columns = ()  # type: ignore[misc]  # its own rows, none of the data's

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise for a model without likelihoods, and rows of which no question can be made."""
        require_choices(bundle.model, KEY)
        pairs = pairs_of(bundle.tokenizer, self._asked(data).questions, self._length(data))
        require_fit(bundle.model, pairs, KEY)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return accuracies of the choice and of the cloze; of each source too."""
        asked, length, batch_size = self._asked(data), self._length(data), self.config.batch_size
        answered = answer(bundle, asked.questions, batch_size=batch_size, length=length)
        pairs = pairs_of(bundle.tokenizer, asked.words, length)
        written_N = score_continuations(bundle, pairs, batch_size).is_likeliest_N

        def measure(indices_N: np.ndarray) -> Metrics:
            return {
                **answered.metrics(indices_N),
                "cloze_accuracy": share_metric(written_N[indices_N]),
                "questions": exact(float(len(indices_N)), "questions"),
            }

        return asked.rows.metrics(measure)

    def _length(self, data: EvaluationData) -> int:
        return self.config.max_length or data.options.max_length

    def _asked(self, data: EvaluationData) -> Asked:
        """Return a question of each row that gives one; raise DataError where none does."""
        limit, path = self.config.limit, self.config.path
        every = rows_to_evaluate(data, path, COLUMNS, None, KEY)
        texts = [str(row["text"]) for row in every.rows if "choices" not in row]
        maker = QuestionMaker(texts, self.config)
        chosen = rows_to_evaluate(data, path, COLUMNS, limit, KEY)
        asked = Asked(EvaluatedRows([], []), [], [])
        for place, (row, source) in enumerate(zip(chosen.rows, chosen.sources, strict=True)):
            with saying_where(row):
                made = _question(row, place, maker)
            if made is not None:
                asked.rows.rows.append(row)
                asked.rows.sources.append(source)
                asked.questions.append(made[0])
                asked.words.append(Question(made[0].context, (made[1],), 0))
        if not asked.questions:
            msg = (
                f"{KEY}: no question can be made of {len(chosen.rows)} rows: expected sentences of "
                f"words with spaces between them, and {self.config.choices} words of "
                f"{self.config.min_letters} letters that are no common ones; give more text, or "
                f"questions with prompt, choices and answer in {KEY}.path"
            )
            raise DataError(msg)
        return asked


def _question(row: Row, place: int, maker: QuestionMaker) -> tuple[Question, str] | None:
    """Return the question that a row holds or gives, and the right word."""
    if "choices" not in row:
        return maker.question(str(row["text"]), place)
    context = str(row.get("question", row.get("prompt")))
    choices = tuple(f" {choice}" for choice in choice_texts(row))
    index = answer_index(row)
    return Question(context, choices, index), choices[index]
