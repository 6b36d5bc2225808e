"""WordPiece as BERT has it, trained so that the same text always gives the same vocabulary."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ontogeny import options

# BERT knows no other start and end of a text than [CLS] and [SEP].
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
WITHIN = "##"  # what a piece within a word begins with
ALPHABET_SHARE = 4  # at most a quarter of the vocabulary is for letters, and one for ## and letters


def wordpiece(texts: Iterable[str], choice: options.Tokenizer, special: Sequence[str]) -> Tokenizer:
    """Train WordPiece (Devlin et al., 2019), cased; `texts` are gone through twice.

    White space is not kept, and a word with a letter that is too rare for the vocabulary is [UNK].
    """
    backend = _with_model(models.WordPiece())
    first, within = _alphabet(texts, backend, max(1, choice.vocab_size // ALPHABET_SHARE))
    trainer = trainers.WordPieceTrainer(
        vocab_size=choice.vocab_size,
        min_frequency=choice.min_frequency,
        # The trainer numbers the others in the order of a hash table, which is another each time.
        special_tokens=[*special, *within],
        initial_alphabet=first,
        limit_alphabet=len(first),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    trained = _with_model(models.WordPiece(backend.get_vocab(), unk_token=SPECIAL["unk_token"]))
    trained.add_special_tokens(list(special))
    return trained


def _with_model(model: models.WordPiece) -> Tokenizer:
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=WITHIN)
    return backend


def _alphabet(texts: Iterable[str], backend: Tokenizer, size: int) -> tuple[list[str], list[str]]:
    """Return the most frequent letters, and those of them that stand within words, as pieces."""
    counts: Counter[str] = Counter()
    neighbours: set[tuple[str, str]] = set()
    for text in texts:
        counts.update(text)
        neighbours.update(pairwise(text))
    found = sorted(counts, key=lambda letter: (-counts[letter], letter))
    first = [letter for letter in found if _words(letter, backend)][:size]
    within = {
        right for left, right in neighbours if _words(left + right, backend) == [left + right]
    }
    return first, [f"{WITHIN}{letter}" for letter in first if letter in within]


def _words(text: str, backend: Tokenizer) -> list[str]:
    cleaned = backend.normalizer.normalize_str(text)
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(cleaned)]
