"""The text that new tokens are picked from and measured on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ontogeny.errors import ConfigError
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ontogeny.data.corpus import Corpus
    from ontogeny.objective import Row

DOMAIN = "domain"  # the source that is meant where none is named
COLUMNS = ("text", "prompt", "completion", "messages", "chosen")  # of what a model should say


def domain_sources(corpus: Corpus, source: str | None) -> list[str]:
    """Return the named source, else the one called `domain`, else all of them."""
    if source is None:
        return [DOMAIN] if DOMAIN in corpus.names else corpus.names
    if source not in corpus.names:
        known = ", ".join(corpus.names)
        msg = (
            f"adapter.vocabulary.source is {source!r}, no source of this stage"
            f"{suggestion(source, corpus.names)}; expected one of {known}"
        )
        raise ConfigError(msg)
    return [source]


def training_texts(corpus: Corpus, sources: Iterable[str], limit: float) -> Iterator[str]:
    """Yield the texts of sources that are trained on, at most `limit` bytes of each."""
    for source in sources:
        yield from _within(limit, (text for row in corpus.rows(source) for text in texts_of(row)))


def held_out_texts(corpus: Corpus, sources: Iterable[str], limit: float) -> Iterator[str]:
    """Yield the texts of sources that are never trained on, at most `limit` bytes of each."""
    for source in sources:
        rows = corpus.held_out(source)
        yield from _within(limit, (text for row in rows for text in texts_of(row)))


def texts_of(row: Row) -> Iterator[str]:
    """Yield the texts of a row of any format, messages one by one."""
    for name in COLUMNS:
        value = row.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            for message in cast("list[Mapping[str, object]]", value):
                if isinstance(content := message.get("content"), str):
                    yield content
    words = row.get("tokens")
    if isinstance(words, list):
        yield " ".join(str(word) for word in words)


def _within(limit: float, texts: Iterable[str]) -> Iterator[str]:
    """Yield texts up to the one that reaches `limit` bytes."""
    read = 0
    for text in texts:
        yield text
        read += len(text.encode())
        if read >= limit:
            return
