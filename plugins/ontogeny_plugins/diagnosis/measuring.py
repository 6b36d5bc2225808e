"""What a checkpoint says of a text, and what a little of the text itself would teach it."""
# N texts, R resamples

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.intervals import resampled_ratios
from ontogeny_plugins.diagnosis.token_scores import ids_of, lines_of, token_log_probs
from ontogeny_plugins.diagnosis.trigram import Trigram, mixed
from ontogeny_plugins.diagnosis.words import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ontogeny.adapter import Bundle


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % bootstrap interval over texts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Sums over each of the measured texts of a source, [N]."""

    nats: list[float]  # -log p of the checkpoint
    tokens: list[float]
    bytes: list[float]
    words: list[float]
    unknown: list[float]  # of the tokens, those that stand for text the tokenizer cannot write
    # -log p of the checkpoint mixed with a trigram model of a text, by the name of that text
    taught: dict[str, list[float]]

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the checkpoint, comparable between tokenizers."""
        return sum(self.nats) / math.log(2) / sum(self.bytes)

    @property
    def tokens_per_byte(self) -> float:
        """Tokens per byte of UTF-8."""
        return sum(self.tokens) / sum(self.bytes)

    @property
    def tokens_per_word(self) -> float:
        """Tokens per word, those of spaces and punctuation included."""
        return sum(self.tokens) / max(1.0, sum(self.words))

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that hide what the tokenizer cannot write; bits leave it out."""
        return sum(self.unknown) / max(1.0, sum(self.tokens))

    def learnable(self, teacher: str) -> float:
        """Return the share of the checkpoint's bits that counting in a text would save."""
        return 1 - sum(self.taught[teacher]) / sum(self.nats)


def score(
    bundle: Bundle,
    texts: Sequence[str],
    teachers: Mapping[str, Trigram],
    *,
    length: int,
    batch_size: int,
) -> Scores:
    """Score texts with the checkpoint alone, and mixed with each of the teachers."""
    lines = lines_of(texts, bundle.tokenizer)
    encoded = ids_of(texts, bundle.tokenizer)
    unknown = bundle.tokenizer.unk_token_id
    scores = token_log_probs(bundle, lines, length=length, batch_size=batch_size)
    return Scores(
        nats=[-float(each.sum()) for each in scores],
        tokens=[float(len(ids)) for ids in encoded],
        bytes=[float(len(text.encode())) for text in texts],
        words=[float(sum(1 for _ in words(text))) for text in texts],
        unknown=[float(ids.count(unknown)) for ids in encoded],
        taught={name: _taught(lines, scores, teacher) for name, teacher in teachers.items()},
    )


def _taught(
    lines: Sequence[Sequence[int]], scores: Sequence[np.ndarray], teacher: Trigram
) -> list[float]:
    """Return -log p of each text under the mixture of the checkpoint and a teacher."""
    taught = np.concatenate([teacher.probabilities(line) for line in lines])
    nats = -np.log(mixed(np.exp(np.concatenate(scores)), taught))
    ends = np.cumsum([len(each) for each in scores])[:-1]
    return [float(part.sum()) for part in np.split(nats, ends)]


def bits_per_byte(scores: Scores, resamples: int) -> Interval:
    """Return bits per byte with its interval."""
    return _interval(scores.bits_per_byte, _bits(scores, resamples, 0))


def gap(domain: Scores, general: Scores, resamples: int) -> Interval:
    """Return bits per byte of the domain above those of general text."""
    difference_R = _bits(domain, resamples, 0) - _bits(general, resamples, 1)
    return _interval(domain.bits_per_byte - general.bits_per_byte, difference_R)


def beyond(domain: Scores, general: Scores, resamples: int) -> Interval:
    """Return the share that the domain's text teaches above what general text does."""
    value = domain.learnable("domain") - general.learnable("general")
    left_R = _left(general, "general", resamples, 1) - _left(domain, "domain", resamples, 0)
    return _interval(value, left_R)


def _bits(scores: Scores, resamples: int, seed: int) -> np.ndarray:
    """Return bits per byte of resampled texts, [R]."""
    nats_N, bytes_N = np.array(scores.nats), np.array(scores.bytes)
    return resampled_ratios(nats_N / math.log(2), bytes_N, resamples, seed)


def _left(scores: Scores, teacher: str, resamples: int, seed: int) -> np.ndarray:
    """Return the share of the bits that is left when taught, of resampled texts, [R]."""
    taught_N, nats_N = np.array(scores.taught[teacher]), np.array(scores.nats)
    return resampled_ratios(taught_N, nats_N, resamples, seed)


def _interval(value: float, resampled_R: np.ndarray) -> Interval:
    low, high = np.quantile(resampled_R, (0.025, 0.975))
    return Interval(value, float(low), float(high))
