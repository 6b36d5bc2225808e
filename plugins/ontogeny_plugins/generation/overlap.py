"""How much of a reference stands in a text: each metric is a statistic of any of the rows.

Exact match as in SQuAD (Rajpurkar et al., 2016); ROUGE (Lin, 2004) from torchmetrics, without
stemming; chrF (Popović, 2015) and BLEU (Papineni et al., 2002) from sacrebleu with its defaults.
"""
# N rows, S counts of a row

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as SacreMetric

Statistic = Callable[[np.ndarray], float]  # of the rows with these indices
ARTICLES = re.compile(r"\b(a|an|the)\b")
WORD = re.compile(r"[a-z0-9]+")  # what ROUGE counts
PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_matches(
    texts: Sequence[str], references: Sequence[str], *, normalise: bool
) -> np.ndarray:
    """Return 1 for each text that is its reference, spaces at the ends aside, else 0: [N]."""
    same = normalised if normalise else str.strip
    pairs = zip(texts, references, strict=True)
    return np.array([same(text) == same(reference) for text, reference in pairs], float)


def normalised(text: str) -> str:
    """Return a text in lower case without punctuation, articles and extra spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def rouge(texts: Sequence[str], references: Sequence[str], kind: str, tokens: str) -> np.ndarray:
    """Return ROUGE F1 of each text, [N]; `kind` is rouge1, rouge2 or rougeL.

    Words are runs of a-z and 0-9 in lower case, as in the reference implementation.
    """
    from torchmetrics.functional.text import rouge_score  # noqa: PLC0415  seconds to import

    normalise, split = (str.lower, _characters) if tokens == "characters" else (None, None)
    found = [
        rouge_score(text, reference, rouge_keys=kind, normalizer=normalise, tokenizer=split)
        for text, reference in zip(texts, references, strict=True)
    ]
    return np.array([float(each[f"{kind}_fmeasure"]) for each in found])


def corpus_score(
    texts: Sequence[str], references: Sequence[str], kind: str, tokens: str
) -> Statistic:
    """Return chrf or bleu of all texts together, 0 to 100, as a statistic of rows."""
    metric = _sacre_metric(kind, tokens)
    # What sacrebleu's own bootstrap is made of: counts of each row, and the score of their sums.
    counts_NS = np.array(metric._extract_corpus_statistics(texts, [references]))  # noqa: SLF001

    def statistic(drawn_N: np.ndarray) -> float:
        sums_S = counts_NS[drawn_N].sum(0).tolist()
        return float(metric._compute_score_from_stats(sums_S).score)  # noqa: SLF001

    return statistic


def has_words(text: str) -> bool:
    """Say whether ROUGE finds a word in a text: it knows none but those of a-z and 0-9."""
    return WORD.search(text.lower()) is not None


def require_sacrebleu(key: str) -> None:
    """Raise ConfigError without the package that chrf and bleu come from."""
    try:
        import sacrebleu  # noqa: F401, PLC0415  optional
    except ImportError as error:
        msg = (
            f"{key} needs the package sacrebleu for chrf and bleu: pip install 'ontogeny[eval]', "
            f"or leave them out: {key}=[exact_match,rouge1,rouge2,rougeL]"
        )
        raise ConfigError(msg) from error


def _sacre_metric(kind: str, tokens: str) -> SacreMetric:
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415  optional
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415  optional

    if kind == "chrf":
        return CHRF()
    return BLEU(tokenize="char" if tokens == "characters" else "13a")


def _characters(text: str) -> list[str]:
    return [character for character in text if not character.isspace()]
