"""Which tokens of a tokenizer stay, and its rules with these alone.

A text whose tokens all stay is encoded as before. BPE: the merges that lead to its tokens are kept,
and of fewer merges the first that applies is the same. WordPiece: of fewer tokens the longest that
fits is the same. Unigram: of fewer splits the best is the same. Any other text is still encoded, in
smaller pieces: tokens of one byte or character stay.
"""

from __future__ import annotations

import json
import re
from copy import deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from tokenizers import Tokenizer

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

Rules = dict[str, Any]  # what `Tokenizer.to_str` writes
KINDS = ("BPE", "WordPiece", "Unigram")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
Ranks = dict[tuple[str, str], int]


def rules_of(tokenizer: PreTrainedTokenizerBase) -> Rules:
    """Return the rules of a tokenizer, added tokens among its own; raise ConfigError for others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = cast("Rules", json.loads(backend.to_str())) if backend is not None else {}
    kind = rules.get("model", {}).get("type", type(tokenizer).__name__)
    if kind not in KINDS:
        msg = (
            f"adapter.trimming: the tokenizer is of the type {kind}, whose tokens do not stand for "
            f"pieces of each other; supported are fast tokenizers of the types {', '.join(KINDS)}"
        )
        raise ConfigError(msg)
    _pin(rules)
    return rules


def kept_tokens(
    rules: Rules,
    tokenizer: PreTrainedTokenizerBase,
    used: Sequence[int],
    needed: Sequence[int],
    limit: int | None,
) -> list[int]:
    """Return the ids that stay, in their order.

    Those are the special and `needed` ones and the alphabet, then the `used` ones, the most
    frequent first, each with what it is merged of, while there are fewer than `limit`. Raises
    ConfigError where the limit leaves no room for what must stay.
    """
    names = dict(_entries(rules))
    spelled = {number: token for token, number in names.items()}
    parts = _parts(rules, names)
    kept = {number for token, number in names.items() if _is_basic(rules, token)}
    kept |= {token["id"] for token in rules["added_tokens"]}
    kept |= {number for number in tokenizer.all_special_ids if number in spelled}
    for number in needed:
        kept |= parts(spelled[number])
    if limit is not None and len(kept) > limit:
        msg = (
            f"adapter.trimming.vocab_size is {limit}, and {len(kept)} tokens must stay: special "
            f"ones, and those of one byte or character; raise it"
        )
        raise ConfigError(msg)
    for number in used:
        more = parts(spelled[number]) - kept
        if limit is None or len(kept) + len(more) <= limit:
            kept |= more
    return sorted(kept)


def trimmed(rules: Rules, kept: Sequence[int]) -> Rules:
    """Return rules with these tokens alone, numbered in their order."""
    number = {old: new for new, old in enumerate(kept)}
    new = deepcopy(rules)
    model = new["model"]
    stays = {token for token, old in _entries(rules) if old in number}
    if isinstance(model["vocab"], dict):
        entries = sorted((number[old], token) for token, old in _entries(rules) if old in number)
        model["vocab"] = {token: place for place, token in entries}
    else:
        model["vocab"] = [model["vocab"][old] for old in kept]
        if model.get("unk_id") is not None:
            model["unk_id"] = number[model["unk_id"]]
    if "merges" in model:
        model["merges"] = [
            pair for pair in model["merges"] if {*pair, _joined(rules, pair)} <= stays
        ]
    for token in new["added_tokens"]:
        token["id"] = number[token["id"]]
    _renumber(new.get("post_processor"), number)
    return new


def with_rules(tokenizer: PreTrainedTokenizerBase, rules: Rules) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer with other rules."""
    copied = deepcopy(tokenizer)
    # Its classes have no public way: those with a constructor of their own ignore new rules.
    copied._tokenizer = Tokenizer.from_str(json.dumps(rules))  # noqa: SLF001
    return copied


def _pin(rules: Rules) -> None:
    """Write added tokens into the model's own vocabulary: the library counts their ids from it."""
    vocabulary = rules["model"]["vocab"]
    added = {token["content"]: token["id"] for token in rules["added_tokens"]}
    if isinstance(vocabulary, dict):
        vocabulary |= added
        return
    lowest = min(score for _, score in vocabulary)
    for token, number in sorted(added.items(), key=lambda item: item[1]):
        if number == len(vocabulary):
            vocabulary.append([token, lowest])


def _entries(rules: Rules) -> Iterator[tuple[str, int]]:
    vocabulary = rules["model"]["vocab"]
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    else:
        yield from ((token, number) for number, (token, _) in enumerate(vocabulary))


def _is_basic(rules: Rules, token: str) -> bool:
    """Say whether a token spells what nothing else can: a byte, a character, or the unknown."""
    model = rules["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    bare = token.removeprefix(prefix) if prefix else token
    return len(bare) == 1 or BYTE.fullmatch(token) is not None or token == model.get("unk_token")


def _joined(rules: Rules, pair: Sequence[str]) -> str:
    prefix = rules["model"].get("continuing_subword_prefix") or ""
    return pair[0] + pair[1].removeprefix(prefix)


def _parts(rules: Rules, names: dict[str, int]) -> Callable[[str], set[int]]:
    """Return a function that gives a token and all that it is merged of, by id."""
    if "merges" not in rules["model"]:
        return lambda token: {names[token]}
    ranks: Ranks = {tuple(pair): rank for rank, pair in enumerate(rules["model"]["merges"])}
    prefix = rules["model"].get("continuing_subword_prefix") or ""

    def parts(token: str) -> set[int]:
        steps = _merged(token, ranks, prefix)
        return {names[token], *(names[step] for step in steps if step in names)}

    return parts


def _merged(token: str, ranks: Ranks, prefix: str) -> Iterator[str]:
    """Yield what stands there on the way from single characters to a token, as BPE goes."""
    pieces = [token[:1], *(prefix + each for each in token[1:])]
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            return
        place = pairs.index(best)
        pieces[place : place + 2] = [best[0] + best[1].removeprefix(prefix)]
        yield pieces[place]


def _renumber(processor: Rules | None, number: dict[int, int]) -> None:
    """Change the ids that a post-processor puts around a text."""
    if processor is None:
        return
    for inner in processor.get("processors", ()):
        _renumber(inner, number)
    special = processor.get("special_tokens")
    for token in special.values() if isinstance(special, dict) else ():
        token["ids"] = [number[each] for each in token["ids"]]
    for name in ("sep", "cls"):
        if isinstance(pair := processor.get(name), list):
            pair[1] = number[pair[1]]
