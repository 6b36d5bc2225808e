"""Marked texts as tokens: which of them a model is to write, at exactly the borders of serving."""
# T tokens of a text

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np

from ontogeny.errors import ConfigError
from ontogeny.objective import IGNORED
from ontogeny.token_ids import stop_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.chat.rendering import Rendered
    from ontogeny.objective import Example


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, where each begins and stops (in characters), which are trained."""

    ids_T: np.ndarray
    starts_T: np.ndarray
    stops_T: np.ndarray
    trained_T: np.ndarray


def examples_of(texts: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase) -> Iterator[Example]:
    """Yield input_ids and aligned labels of each text, as `tokens_of` reads it."""
    for tokens in tokens_of(texts, tokenizer):
        labels_T = np.where(tokens.trained_T, tokens.ids_T, IGNORED)
        yield {
            "input_ids": tokens.ids_T[:-1].astype(np.int32),
            "labels": labels_T[1:].astype(np.int32),
        }


def tokens_of(texts: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokens]:
    """Yield the tokens of each text, up to the end of its last answer.

    An answer that does not end with a token that stops a served model gets the eos token.
    """
    start = special_start(tokenizer)
    stops = stop_ids(tokenizer)
    for text, whole in zip(texts, _tokenised(texts, tokenizer), strict=True):
        last = int(np.flatnonzero(whole.trained_T).max(initial=-1)) + 1
        columns = (whole.ids_T, whole.starts_T, whole.stops_T, whole.trained_T)
        tokens = Tokens(*(column[:last] for column in columns))
        if text.is_bare and start:
            tokens = _joined(_special(start, at=0, trained=False), tokens)
        if last and tokens.ids_T[-1] not in stops and tokenizer.eos_token_id is not None:
            end = _special([tokenizer.eos_token_id], at=int(tokens.stops_T[-1]), trained=True)
            tokens = _joined(tokens, end)
        yield tokens


def _special(ids: Sequence[int], *, at: int, trained: bool) -> Tokens:
    """Return tokens that stand for no characters."""
    places_T = np.full(len(ids), at, np.int64)
    return Tokens(np.array(ids, np.int64), places_T, places_T, np.full(len(ids), trained))


def _joined(first: Tokens, second: Tokens) -> Tokens:
    return Tokens(
        np.concatenate([first.ids_T, second.ids_T]),
        np.concatenate([first.starts_T, second.starts_T]),
        np.concatenate([first.stops_T, second.stops_T]),
        np.concatenate([first.trained_T, second.trained_T]),
    )


def special_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what the tokenizer itself puts before a text, such as <s>."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    mask = cast("list[int]", encoded["special_tokens_mask"])
    ids = cast("list[int]", encoded["input_ids"])
    return ids[: mask.index(0)] if 0 in mask else []


def _tokenised(texts: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokens]:
    """Tokenise each text as a whole, and apart at borders where a served prompt would end."""
    if not tokenizer.is_fast:
        msg = (
            f"the tokenizer, a {type(tokenizer).__name__}, does not tell where in the text its "
            f"tokens stand; take a fast one, which has a tokenizer.json"
        )
        raise ConfigError(msg)
    wholes = _pieces([text.text for text in texts], tokenizer)
    prompts = [text.text[:start] for text in texts for start, _ in text.spans]
    waiting = iter(_pieces(prompts, tokenizer))
    for text, whole in zip(texts, wholes, strict=True):
        served = [next(waiting).ids_T for _ in text.spans]
        if all(np.array_equal(whole.ids_T[: len(ids_T)], ids_T) for ids_T in served):
            tokens, borders = whole, [len(ids_T) for ids_T in served]
        else:
            tokens, borders = _apart(text, tokenizer)
        for (_, stop), first in zip(text.spans, borders, strict=True):
            tokens.trained_T[first : np.searchsorted(tokens.starts_T, stop)] = True
        yield tokens


def _apart(text: Rendered, tokenizer: PreTrainedTokenizerBase) -> tuple[Tokens, list[int]]:
    """Tokenise the parts between the beginnings of answers; return where the answers begin."""
    cuts = [0, *(start for start, _ in text.spans), len(text.text)]
    parts = [text.text[begin:end] for begin, end in pairwise(cuts)]
    pieces = _pieces(parts, tokenizer)
    moved = [
        replace(piece, starts_T=piece.starts_T + cut, stops_T=piece.stops_T + cut)
        for piece, cut in zip(pieces, cuts[:-1], strict=True)
    ]
    borders = np.cumsum([len(piece.ids_T) for piece in pieces])[:-1].tolist()
    return reduce(_joined, moved), borders


def _pieces(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    if not texts:
        return []
    encoded = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    return [
        Tokens(
            np.array(ids, np.int64),
            np.array([start for start, _ in offsets], np.int64),
            np.array([stop for _, stop in offsets], np.int64),
            np.zeros(len(ids), bool),
        )
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
