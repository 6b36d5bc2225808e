"""An expansion of a vocabulary: which tokens are new, what they stand for, what they save."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from ontogeny.errors import DataError
from ontogeny.tokenizers import tokenizer_digest
from ontogeny_plugins.vocabulary.bpe import BytePairs
from ontogeny_plugins.vocabulary.listed import add_listed, listed_tokens
from ontogeny_plugins.vocabulary.rules import backend_of, rules_of, with_rules
from ontogeny_plugins.vocabulary.texts import domain_sources, training_texts
from ontogeny_plugins.vocabulary.unigram import Unigrams
from ontogeny_plugins.vocabulary.units import count_units
from ontogeny_plugins.vocabulary.wordpiece import WordPieces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from ontogeny.data.corpus import Corpus
    from ontogeny_plugins.vocabulary import Vocabulary
    from ontogeny_plugins.vocabulary.rules import Rules
    from ontogeny_plugins.vocabulary.token_model import TokenModel

VERSION = 2  # of the way in which tokens are chosen
DEFAULT_SIZE = 1000
MODELS: dict[str, type[TokenModel]] = {
    "BPE": BytePairs,
    "WordPiece": WordPieces,
    "Unigram": Unigrams,
}


@dataclass(frozen=True)
class Expansion:
    """The new tokens of a tokenizer, with ids from `first_id` on, in their order."""

    first_id: int
    spellings: list[str]  # as the vocabulary writes them
    pieces: list[list[int]]  # the old tokens that each stands for; none for what was unknown
    listed: int  # tokens that the user named; they and what they need come first
    needed: int  # tokens on the way to those: each merge has two halves
    asked: int  # tokens to pick
    tokens: int  # of the text that they are picked from, as it was encoded before
    saved: int  # of these, as counted when the new ones were chosen
    bytes: int  # of that text

    def __len__(self) -> int:
        return len(self.spellings)

    @property
    def ids(self) -> range:
        """The ids of the new tokens."""
        return range(self.first_id, self.first_id + len(self))


def expand(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, options: Vocabulary
) -> tuple[PreTrainedTokenizerBase, Expansion, str]:
    """Return a copy of the tokenizer with more tokens, what is new in it, and its identity.

    Raises ConfigError for a tokenizer or for tokens that cannot be, DataError where the text has
    nothing to pick.
    """
    rules = rules_of(tokenizer)
    sources, listed = domain_sources(corpus, options.source), listed_tokens(options)
    size = _size(options, listed)
    identity = {
        "tokenizer": tokenizer_digest(tokenizer),
        "text": corpus.digest(*sources),
        "listed": listed,
        "size": size,
        "megabytes": options.megabytes,
        "picking": [options.min_saved, options.across_words] if size else [],
        "version": VERSION,
    }
    build = partial(_build, rules, corpus, sources, listed, size, options)
    folder = corpus.keep("vocabularies", identity, build)
    extended = with_rules(tokenizer, json.loads((folder / "rules.json").read_text()))
    found = Expansion(**json.loads((folder / "expansion.json").read_text()))
    return extended, found, folder.name


def _size(options: Vocabulary, listed: Sequence[str]) -> int:
    if options.size is not None:
        return options.size
    return 0 if listed else DEFAULT_SIZE


def _build(
    rules: Rules,
    corpus: Corpus,
    sources: Sequence[str],
    listed: Sequence[str],
    size: int,
    options: Vocabulary,
    folder: Path,
) -> None:
    """Write the rules with more tokens, and what is new in them, into an empty folder."""
    texts = list(training_texts(corpus, sources, options.megabytes * 1e6))
    if not texts:
        msg = (
            f"adapter.vocabulary finds no text to pick tokens from in {', '.join(sources)}: set "
            f"adapter.vocabulary.source to a source that has some"
        )
        raise DataError(msg)
    found = extend_rules(rules, texts, listed, size, options)
    (folder / "rules.json").write_text(json.dumps(rules))
    (folder / "expansion.json").write_text(json.dumps(asdict(found)))


def extend_rules(
    rules: Rules, texts: Sequence[str], listed: Sequence[str], size: int, options: Vocabulary
) -> Expansion:
    """Add listed tokens, then `size` that are picked from the texts, to the rules in place."""
    across_words = options.across_words if size else False
    before = units = count_units(backend_of(rules), texts, across_words=across_words)
    model = MODELS[rules["model"]["type"]](rules)
    named = 0
    if listed:
        named = add_listed(model, rules, listed, texts)
        units = count_units(backend_of(rules), texts, across_words=across_words)
    chosen = len(model.new)
    saved = model.pick(units, size, options.min_saved) if size else 0
    if size and len(model.new) == chosen:
        msg = (
            f"no new token would save {options.min_saved} tokens of {before.bytes:,} bytes of "
            f"text: lower adapter.vocabulary.min_saved, give more text, or leave the adapter out"
        )
        raise DataError(msg)
    return Expansion(
        model.first_id,
        [token.spelling for token in model.new],
        [list(token.pieces) for token in model.new],
        named,
        chosen - named,
        size,
        before.tokens,
        before.tokens - units.tokens + saved,
        before.bytes,
    )
