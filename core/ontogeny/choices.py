"""Questions with several answers, of which a causal model takes the likeliest."""
# N questions

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.continuation_scores import Pair, score_continuations, tokens_of
from ontogeny.errors import DataError
from ontogeny.evaluator import Metrics
from ontogeny.intervals import exact, share_metric

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle

CHOICES = 26  # at most: as many as there are letters
TIE = 1e-6  # nats: below this two scores differ by how they were rounded


@dataclass(frozen=True)
class Question:
    """A context with continuations of which one is right."""

    context: str
    choices: tuple[str, ...]  # as they follow the context, with a space before them if it needs one
    answer: int  # index of the right one


@dataclass(frozen=True)
class Answered:
    """How questions were answered, [N] each: 1 right, 0 wrong, shares of 1 among equals."""

    right_N: np.ndarray  # by the log-likelihood of a choice
    right_normalised_N: np.ndarray  # by that for each of its bytes, or tokens
    chance_N: np.ndarray  # of a guess

    def metrics(self, indices: np.ndarray) -> Metrics:
        """Return the accuracies of some questions, and that of guessing."""
        return {
            "accuracy": share_metric(self.right_N[indices]),
            "accuracy_normalised": share_metric(self.right_normalised_N[indices]),
            "chance": exact(float(self.chance_N[indices].mean()), "1"),
        }


def answer(
    bundle: Bundle,
    questions: Sequence[Question],
    *,
    batch_size: int,
    per_token: bool = False,
    length: int | None = None,
) -> Answered:
    """Let the model answer questions, `batch_size` choices in a forward pass.

    `length` as in `pairs_of`. The normalised score is log p for each byte of the choice, which is
    `acc_bytes` of lm-evaluation-harness (`acc_norm` counts characters), or for each token of it.
    """
    pairs = pairs_of(bundle.tokenizer, questions, length)
    scores = score_continuations(bundle, pairs, batch_size)
    sizes = [len(choice.strip().encode()) for each in questions for choice in each.choices]
    sizes_C = scores.tokens_N if per_token else np.array(sizes)
    ends = np.cumsum([len(question.choices) for question in questions])[:-1]
    answers = [question.answer for question in questions]
    raw = np.split(scores.log_probs_N, ends)
    normalised = np.split(scores.log_probs_N / np.maximum(sizes_C, 1), ends)
    chance_N = np.array([1 / len(question.choices) for question in questions])
    return Answered(_points(raw, answers), _points(normalised, answers), chance_N)


def pairs_of(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], length: int | None = None
) -> list[Pair]:
    """Return the ids of every choice of every question after its context, in order.

    With `length`, only the last tokens of a context are taken, as many as leave room for the
    longest choice in a row of so many tokens; one at least.
    """
    found: list[Pair] = []
    for question in questions:
        pairs = [tokens_of(tokenizer, question.context, choice) for choice in question.choices]
        if length is not None:
            room = max(1, length + 1 - max(len(choice) for _, choice in pairs))
            pairs = [(context[-room:], choice) for context, choice in pairs]
        found += pairs
    return found


def answer_index(row: Mapping[str, object]) -> int:
    """Return which of `choices` the row's `answer` is: an index from 0, a letter, or its text.

    Raises DataError where it is none of them, or `choices` cannot be chosen from.
    """
    texts, given = choice_texts(row), row["answer"]
    if isinstance(given, str):
        letter = given.strip().upper()
        index = ord(letter) - ord("A") if len(letter) == 1 else -1
        index = texts.index(given.strip()) if given.strip() in texts else index
    else:
        index = given if isinstance(given, int) and not isinstance(given, bool) else -1
    if not 0 <= index < len(texts):
        last = chr(ord("A") + len(texts) - 1)
        msg = (
            f"answer is {given!r}; expected an index from 0 to {len(texts) - 1}, a letter from A "
            f"to {last}, or one of the choices: {', '.join(texts)}"
        )
        raise DataError(msg)
    return index


def choice_texts(row: Mapping[str, object]) -> list[str]:
    """Return the choices of a row; raise DataError unless they are a list of 2 to 26 texts."""
    choices = row["choices"]
    texts = [str(each).strip() for each in choices] if isinstance(choices, list) else []
    if not 2 <= len(texts) <= CHOICES or not all(texts):
        msg = f"choices is {choices!r}; expected a list of 2 to {CHOICES} texts, none empty"
        raise DataError(msg)
    return texts


def _points(scores: Sequence[np.ndarray], answers: Sequence[int]) -> np.ndarray:
    """Give a point to each question whose answer has the highest score.

    Choices that are equally good share it: a model that knows nothing is at chance.
    """
    points = []
    for values, right in zip(scores, answers, strict=True):
        is_best = values >= values.max() - TIE
        points.append(float(is_best[right]) / int(is_best.sum()))
    return np.array(points)
