"""Each metric against another implementation, on random texts."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torchmetrics.text import CHRFScore, SacreBLEUScore

from ontogeny_plugins.generation.overlap import (
    corpus_score,
    exact_matches,
    has_words,
    normalised,
    rouge,
)

TEXT = "the river ran past an old mill, where nobody's corn was ground! (for 3.5 years) don't stop"
WORDS = TEXT.split()
N = 40


def random_texts(seed: int, count: int = N) -> tuple[list[str], list[str]]:
    """Return texts and references that share a part of their words, in their order."""
    random = np.random.default_rng(seed)
    references = [random.choice(WORDS, random.integers(6, 20)).tolist() for _ in range(count)]
    texts = []
    for reference in references:
        kept = [word for word in reference if random.random() < 0.8]
        texts.append(" ".join([*kept, *random.choice(WORDS, random.integers(0, 4))]))
    return texts, [" ".join(reference) for reference in references]


def rouge_by_hand(text: str, reference: str, kind: str) -> float:
    """Return F1 of the n-grams or of the longest common subsequence (Lin, 2004)."""
    left, right = (re.findall("[a-z0-9]+", each.lower()) for each in (text, reference))
    if kind == "rougeL":
        common, sizes = longest_common(tuple(left), tuple(right)), [len(left), len(right)]
    else:
        n = int(kind[-1])
        grams = [
            Counter(zip(*(words[k:] for k in range(n)), strict=False)) for words in (left, right)
        ]
        common, sizes = (grams[0] & grams[1]).total(), [each.total() for each in grams]
    return 2 * common / sum(sizes)  # of precision c/a and recall c/b: 2 c / (a + b)


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_that_of_its_definition(kind: str) -> None:
    texts, references = random_texts(0)
    pairs = zip(texts, references, strict=True)
    expected = [rouge_by_hand(text, reference, kind) for text, reference in pairs]
    assert rouge(texts, references, kind, "words") == pytest.approx(expected, abs=1e-6)
    assert min(expected) < max(expected)


@functools.cache
def longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    if not left or not right:
        return 0
    if left[-1] == right[-1]:
        return longest_common(left[:-1], right[:-1]) + 1
    return max(longest_common(left[:-1], right), longest_common(left, right[:-1]))


def test_rouge_of_characters_serves_texts_without_spaces() -> None:
    texts, references = ["今天 天气很好", "无"], ["今天的天气好", "有"]
    common = longest_common("今天天气很好", "今天的天气好")
    assert common == 5
    precision = recall = common / 6
    expected = [2 * precision * recall / (precision + recall), 0.0]
    assert rouge(texts, references, "rougeL", "characters") == pytest.approx(expected)
    assert rouge(texts, references, "rougeL", "words").tolist() == [0, 0]
    assert not has_words("今天")
    assert has_words("今天 A")


def test_bleu_and_chrf_are_those_of_another_library() -> None:
    texts, references = random_texts(1)
    everything = np.arange(N)
    bleu, chrf = (corpus_score(texts, references, kind, "words") for kind in ("bleu", "chrf"))
    other = SacreBLEUScore()(texts, [[each] for each in references])
    assert bleu(everything) == pytest.approx(100 * float(other), abs=1e-3)
    other = CHRFScore(n_word_order=0)(texts, [[each] for each in references])
    assert chrf(everything) == pytest.approx(100 * float(other), abs=1e-3)


def test_the_score_of_some_rows_is_the_corpus_score_of_those_rows() -> None:
    texts, references = random_texts(2)
    drawn = np.array([3, 3, 7, 1, 0, 39])
    some = [texts[row] for row in drawn], [[references[row] for row in drawn]]
    assert corpus_score(texts, references, "bleu", "words")(drawn) == pytest.approx(
        BLEU().corpus_score(*some).score
    )
    assert corpus_score(texts, references, "chrf", "words")(drawn) == pytest.approx(
        CHRF().corpus_score(*some).score
    )


def test_bleu_of_characters_is_sacrebleus() -> None:
    texts, references = ["今天天气很好啊", "我们去公园"], ["今天的天气很好", "我们去公园吧"]
    found = corpus_score(texts, references, "bleu", "characters")(np.arange(2))
    expected = BLEU(tokenize="char").corpus_score(texts, [references]).score
    assert found == pytest.approx(expected)
    assert found > 30


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The Answer, is: 42!", True),
        ("answer is 42", True),
        ("an  answer is\n42.", True),
        ("answer is 43", False),
        ("another answer is 42", False),
    ],
)
def test_exact_match_leaves_out_case_punctuation_articles_and_spaces(text: str, same: bool) -> None:
    # As the evaluation script of SQuAD does.
    assert exact_matches([text], ["answer is 42"], normalise=True).tolist() == [float(same)]


def test_exact_match_to_the_letter_forgives_spaces_at_the_ends_alone() -> None:
    texts = [" Paris\n", "paris", "Paris."]
    assert exact_matches(texts, ["Paris"] * 3, normalise=False).tolist() == [1, 0, 0]
    assert normalised("The theatre of an Ant") == "theatre of ant"
