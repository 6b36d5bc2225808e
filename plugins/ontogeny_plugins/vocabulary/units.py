"""Text as a tokenizer sees it: stretches of tokens that no new token crosses, and their number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tokenizers import Encoding, Tokenizer

Unit = tuple[int, ...]  # ids
SPACES = ("▁", "Ġ", " ")  # how vocabularies spell a space
TEXTS_PER_CALL = 1000  # enough for the tokenizer's threads


@dataclass(frozen=True)
class Units:
    """The units of a text with how often each occurs, and the size of the whole."""

    counts: Counter[Unit]  # those of two tokens or more: no other can be shortened
    tokens: int
    bytes: int


def count_units(backend: Tokenizer, texts: Iterable[str], *, across_words: bool) -> Units:
    """Encode texts and count their units.

    A unit is what the tokenizer's own rules split off. Where they do not split at spaces, a unit
    is a word with the spaces before it or, `across_words`, the whole text.
    """
    splits = splits_words(backend)
    if across_words and splits:
        msg = (
            "adapter.vocabulary.across_words is true, but the tokenizer splits text into words "
            "before it looks tokens up, so that no token can hold a space; leave it out"
        )
        raise ConfigError(msg)
    starts = frozenset[int]() if splits or across_words else _starting_with_space(backend)
    counts: Counter[Unit] = Counter()
    tokens = size = 0
    for chunk in _chunks(texts):
        size += sum(len(text.encode()) for text in chunk)
        for encoding in backend.encode_batch(chunk, add_special_tokens=False):
            tokens += len(encoding.ids)
            counts.update(unit for unit in _units(encoding, starts) if len(unit) > 1)
    return Units(counts, tokens, size)


def splits_words(backend: Tokenizer) -> bool:
    """Return whether the rules split text at spaces before tokens are looked up."""
    return len(set(backend.encode("a b", add_special_tokens=False).word_ids)) > 1


def _starting_with_space(backend: Tokenizer) -> frozenset[int]:
    return frozenset(
        number for token, number in backend.get_vocab().items() if token.startswith(SPACES)
    )


def _units(encoding: Encoding, starts: frozenset[int]) -> Iterator[Unit]:
    """Cut where the rules' own piece changes, and before a space that follows no other space."""
    ids, pieces, spellings = encoding.ids, encoding.word_ids, encoding.tokens
    begin = 0
    for place in range(1, len(ids)):
        begins_word = ids[place] in starts and not spellings[place - 1].endswith(SPACES)
        if pieces[place] != pieces[place - 1] or begins_word:
            yield tuple(ids[begin:place])
            begin = place
    if ids:
        yield tuple(ids[begin:])


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter(texts)
    while chunk := list(islice(waiting, TEXTS_PER_CALL)):
        yield chunk
