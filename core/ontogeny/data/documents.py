"""Raw text as documents of tokens: what special tokens stand around it, and where words begin."""
# T tokens of a text

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Frame:
    """The special tokens that stand before and after a text."""

    start: list[int]
    end: list[int]

    def __len__(self) -> int:
        return len(self.start) + len(self.end)

    def around(self, ids_T: np.ndarray) -> np.ndarray:
        """Return the ids of a text with the frame around them, int32."""
        return np.array([*self.start, *ids_T, *self.end], np.int32)

    def zeros_around(self, column_T: np.ndarray) -> np.ndarray:
        """Return another column of the text, which has nothing to say about the frame."""
        return np.pad(column_T, (len(self.start), len(self.end)))


def token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the ids of each text, without special tokens around it."""
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def ids_and_units(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, words: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each text its ids and which unit each belongs to, from 1 on: [T] int32 both.

    A unit is a token, or a word as the tokenizer's pre-tokenizer cuts it. Raises ConfigError for a
    tokenizer that does not tell.
    """
    if not words:
        for ids in token_ids(texts, tokenizer):
            yield np.array(ids, np.int32), np.arange(1, len(ids) + 1, dtype=np.int32)
        return
    if not tokenizer.is_fast or tokenizer.backend_tokenizer.pre_tokenizer is None:
        msg = (
            f"the tokenizer, a {type(tokenizer).__name__}, does not tell which tokens make a word; "
            f"take one whose tokenizer.json has a pre-tokenizer, or mask single tokens"
        )
        raise ConfigError(msg)
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    for number, ids in enumerate(encoded["input_ids"]):
        yield np.array(ids, np.int32), np.array(encoded.word_ids(number), np.int32) + 1


def frame_of(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Return what the tokenizer puts around a text: [CLS] and [SEP], or <s> and </s>.

    Where it puts nothing there: its tokens for the start (cls, else bos) and the end (sep, else
    eos) of a text, as far as it has them.
    """
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, is_special = encoded["input_ids"], np.array(encoded["special_tokens_mask"], bool)
    inner = np.flatnonzero(~is_special)
    if is_special.any() and len(inner):
        return Frame(ids[: inner[0]], ids[inner[-1] + 1 :])
    start = _first(tokenizer.cls_token_id, tokenizer.bos_token_id)
    return Frame(start, _first(tokenizer.sep_token_id, tokenizer.eos_token_id))


def _first(*tokens: int | None) -> list[int]:
    return [token for token in tokens if token is not None][:1]
