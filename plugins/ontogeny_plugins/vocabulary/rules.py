"""A fast tokenizer's rules as JSON: how they are read, and how a copy with more tokens is made.

New ids follow the highest old one. The library gives added tokens (`<|im_start|>`) ids by how many
tokens the model has, so they would move when it gets more: they are written into it first.
"""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

from tokenizers import Tokenizer

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

Rules = dict[str, Any]  # what `Tokenizer.to_str` writes
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
KINDS = ("BPE", "WordPiece", "Unigram")


def rules_of(tokenizer: PreTrainedTokenizerBase) -> Rules:
    """Return the rules of a tokenizer that can be extended; raise ConfigError for another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    supported = "adapter.vocabulary extends fast tokenizers of the types BPE, WordPiece and Unigram"
    if backend is None:
        msg = (
            f"the tokenizer is {type(tokenizer).__name__}, which has no rules to extend; "
            f"{supported}: take a folder with a tokenizer.json"
        )
        raise ConfigError(msg)
    rules = cast("Rules", json.loads(backend.to_str()))
    kind = rules["model"]["type"]
    if kind not in KINDS:
        msg = (
            f"the tokenizer is of the type {kind}, whose tokens stand alone; {supported}: take "
            f"another one, such as tokenizer.algorithm=byte_bpe, or leave the adapter out"
        )
        raise ConfigError(msg)
    return rules


def first_new_id(rules: Rules) -> int:
    """Return the id after the highest one, of added tokens too."""
    added = (token["id"] for token in rules["added_tokens"])
    return int(max([*vocabulary_of(rules).values(), *added])) + 1


def pin_added_tokens(rules: Rules) -> None:
    """Write added tokens into the model's own vocabulary, where their ids stay."""
    vocabulary = rules["model"]["vocab"]
    beyond = [token for token in rules["added_tokens"] if token["id"] >= len(vocabulary)]
    if isinstance(vocabulary, dict):
        vocabulary |= {token["content"]: token["id"] for token in rules["added_tokens"]}
        return
    lowest = min(score for _, score in vocabulary)  # what unknown characters cost depends on it
    for token in sorted(beyond, key=lambda token: token["id"]):
        if token["id"] != len(vocabulary):
            msg = (
                f"no token of the Unigram tokenizer has the id {len(vocabulary)}, though "
                f"{token['content']!r} has {token['id']}; such a vocabulary cannot be extended"
            )
            raise ConfigError(msg)
        vocabulary.append([token["content"], lowest])


def byte_tokens(rules: Rules) -> dict[int, int]:
    """Return the value of each token that stands for one byte of a character without a token."""
    model = rules["model"]
    if not model.get("byte_fallback"):
        return {}
    matched = ((number, BYTE.fullmatch(token)) for token, number in vocabulary_of(rules).items())
    return {number: int(match[1], 16) for number, match in matched if match}


def characters(tokens: Sequence[int], byte_tokens: Mapping[int, int]) -> list[int | str]:
    """Return the tokens, with characters where several bytes spell one."""
    written: list[int | str] = []
    pending = b""
    for token in tokens:
        value = byte_tokens.get(token)
        if value is None or value < 0x80:  # ASCII is one byte: there is nothing to save
            written.append(token)
            continue
        pending += bytes([value])
        try:
            written.append(pending.decode())
            pending = b""
        except UnicodeDecodeError:
            continue
    return written


def tokens_apart(rules: Rules) -> set[int]:
    """Return the tokens that stand for no text of their own: added ones, bytes, the unknown."""
    unknown = unknown_token(rules)
    apart = {token["id"] for token in rules["added_tokens"]} | byte_tokens(rules).keys()
    return apart if unknown is None else apart | {unknown}


def unknown_token(rules: Rules) -> int | None:
    """Return the token that stands for whatever the model has none for, where there is one."""
    model = rules["model"]
    unknown: int | None = model.get("unk_id", vocabulary_of(rules).get(model.get("unk_token")))
    return unknown


def vocabulary_of(rules: Rules) -> dict[str, int]:
    """Return the model's own vocabulary."""
    vocabulary = rules["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {token: number for number, (token, _) in enumerate(vocabulary)}


def backend_of(rules: Rules) -> Tokenizer:
    """Return a tokenizer that encodes whole texts, each in the same way every time."""
    settled = {**rules, "padding": None, "truncation": None}
    settled["model"] = {**rules["model"]}
    if "dropout" in settled["model"]:
        settled["model"]["dropout"] = None
    return Tokenizer.from_str(json.dumps(settled))


def with_rules(tokenizer: PreTrainedTokenizerBase, rules: Rules) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer with other rules."""
    copied = deepcopy(tokenizer)
    now = json.loads(copied.backend_tokenizer.to_str())
    settings = {name: now[name] for name in ("padding", "truncation")}
    # Its classes have no public way: those with a constructor of their own ignore new rules.
    backend = Tokenizer.from_str(json.dumps({**rules, **settings}))
    copied._tokenizer = backend  # noqa: SLF001
    return copied
