"""Tokens that the user names: how the vocabulary spells them, and whether text can reach them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tokenizers import pre_tokenizers

from ontogeny.errors import ConfigError
from ontogeny_plugins.vocabulary.rules import backend_of, vocabulary_of
from ontogeny_plugins.vocabulary.units import SPACES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenizers import Tokenizer

    from ontogeny_plugins.vocabulary import Vocabulary
    from ontogeny_plugins.vocabulary.rules import Rules
    from ontogeny_plugins.vocabulary.token_model import TokenModel

SHOWN = 5  # tokens in a message


class Listed(NamedTuple):
    """A token that the user names."""

    written: str
    spelling: str  # the vocabulary's
    piece: str  # what the tokenizer's rules must leave whole
    probe: str  # in this text


def listed_tokens(options: Vocabulary) -> list[str]:
    """Return the tokens of `tokens` and of `tokens_file`, each once."""
    tokens = list(options.tokens)
    if options.tokens_file is not None:
        tokens += _lines(Path(options.tokens_file))
    if any(not token.strip() for token in tokens):
        msg = "adapter.vocabulary.tokens holds an empty token; remove it"
        raise ConfigError(msg)
    return list(dict.fromkeys(tokens))


def add_listed(model: TokenModel, rules: Rules, tokens: Sequence[str], texts: Sequence[str]) -> int:
    """Give a model the tokens of a list, and those that they need; return how many were listed.

    Raises ConfigError for tokens that exist, and for those that no text can reach.
    """
    space = _spelling_of_space(backend_of(rules))
    found = [_listed(token, rules, space, texts) for token in tokens]
    listed = list({token.spelling: token for token in found}.values())
    vocabulary = vocabulary_of(rules)
    added = {token["content"] for token in rules["added_tokens"]}
    _refuse_known(t.written for t in listed if t.spelling in vocabulary or t.written in added)
    ids = {token: model.add(token.spelling) for token in sorted(listed, key=_length)}
    _refuse_known(t.written for t, number in ids.items() if number and number < model.first_id)
    backend = backend_of(rules)
    lost = [t for t in listed if ids[t] is None or not _is_one_piece(t, backend)]
    if lost:
        made = " ".join(backend.encode(lost[0].probe, add_special_tokens=False).tokens)
        msg = (
            f"adapter.vocabulary.tokens: no text can reach {_some(t.written for t in lost)}; of "
            f"{lost[0].probe!r} the tokenizer makes {made!r}: write tokens as its rules leave them "
            f"(letter case, no spaces where it splits at them), or leave them out"
        )
        raise ConfigError(msg)
    return len(listed)


def _lines(file: Path) -> list[str]:
    key = f"adapter.vocabulary.tokens_file is {str(file)!r}"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        msg = f"{key}, which cannot be read: {reason}; expected a text file, one token to a line"
        raise ConfigError(msg) from error
    tokens = [line for line in lines if line.strip()]
    if not tokens:
        msg = f"{key}, which holds no token; expected one to a line"
        raise ConfigError(msg)
    return tokens


def _listed(token: str, rules: Rules, space: str, texts: Sequence[str]) -> Listed:
    """Return a token in the form that the texts have more often: after a space, or not.

    Only vocabularies that write that space into the token tell the two apart. A space before the
    token (or `Ġ` or `▁`, as vocabularies spell it) asks for the first form outright.
    """
    bare = token[1:] if token[0] in SPACES else token
    is_bytes = "ByteLevel" in json.dumps([rules["pre_tokenizer"], rules["normalizer"]])
    if not space:
        prefix = rules["model"].get("continuing_subword_prefix") or "##"
        piece = bare.removeprefix(prefix)
        probe = piece if piece == bare else f"x{piece}"
        if is_bytes:
            return Listed(token, _spelled(bare), _spelled(piece), probe)
        return Listed(token, bare, piece, probe)
    form = f" {bare}" if bare != token or _follows_space(token, texts) else token
    probe = f"a{form}" if form.startswith(" ") else f"\n{form}"
    spelling = _spelled(form) if is_bytes else form.replace(" ", space)
    return Listed(token, spelling, spelling, probe)


def _spelling_of_space(backend: Tokenizer) -> str:
    """Return how tokens spell a space; nothing where the rules drop it."""
    pieces = "".join(_pieces("a b", backend))
    return next((space for space in SPACES if space in pieces), "")


def _follows_space(token: str, texts: Sequence[str]) -> bool:
    after_space = sum(text.count(f" {token}") for text in texts)
    return 2 * after_space >= sum(text.count(token) for text in texts)


def _spelled(form: str) -> str:
    """Return the letters that byte-level vocabularies have for the bytes of a text."""
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(piece for piece, _ in alphabet.pre_tokenize_str(form))


def _is_one_piece(token: Listed, backend: Tokenizer) -> bool:
    """Return whether the rules leave the token whole until they look tokens up."""
    return any(token.piece in piece for piece in _pieces(token.probe, backend))


def _pieces(text: str, backend: Tokenizer) -> list[str]:
    """Return what the rules split a text into before they look tokens up."""
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is None:
        return [text]
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def _length(token: Listed) -> int:
    return len(token.spelling)


def _refuse_known(tokens: Iterable[str]) -> None:
    known = list(tokens)
    if known:
        msg = (
            f"adapter.vocabulary.tokens: the vocabulary has {_some(known)} already; "
            f"leave {'it' if len(known) == 1 else 'them'} out"
        )
        raise ConfigError(msg)


def _some(tokens: Iterable[str]) -> str:
    named = [repr(token) for token in tokens]
    more = len(named) - SHOWN
    return ", ".join(named[:SHOWN]) + (f" and {more} more" if more > 0 else "")
