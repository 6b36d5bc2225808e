"""Raw text as documents of tokens: what special tokens stand around it, and where words begin."""
# T tokens of a text

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Example

# Letters of scripts that are written without spaces: Thai, Lao, Burmese, Khmer, kana, Chinese.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3041-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
# Where a word begins, though the pre-tokenizer may not cut there: at white space, which belongs to
# the word behind it, and before and after each of those letters.
_BEGINS = re.compile(rf"(?<!\s)\s|[{_UNSPACED}]|(?<=[{_UNSPACED}]).", re.DOTALL)


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


def causal_examples(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, start: bool, end: bool
) -> Iterator[Example]:
    """Yield [start] text [end], cut into what is seen and what is predicted one later.

    The start is the tokenizer's bos token, else its eos; the end its eos token: as far as wanted,
    and as it has them.
    """
    eos = tokenizer.eos_token_id
    first = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    before = [first] if start and first is not None else []
    after = [eos] if end and eos is not None else []
    for ids in token_ids(texts, tokenizer):
        document = np.array([*before, *ids, *after], dtype=np.int32)
        yield {"input_ids": document[:-1], "labels": document[1:]}


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of all special tokens, those included that have no role such as `cls`."""
    added = tokenizer.added_tokens_decoder.items()
    return sorted({*tokenizer.all_special_ids, *(id_ for id_, token in added if token.special)})


def ids_and_units(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, words: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each text its ids and which unit each belongs to, from 1 on: [T] int32 both.

    A unit is a token, or a word: what the tokenizer's pre-tokenizer leaves whole, cut at white
    space, and where a script has none, by its letters as far as they are tokens. Raises ConfigError
    for a tokenizer that does not tell where its tokens stand.
    """
    if not words:
        for ids in token_ids(texts, tokenizer):
            yield np.array(ids, np.int32), np.arange(1, len(ids) + 1, dtype=np.int32)
        return
    if not tokenizer.is_fast:
        msg = (
            f"the tokenizer, a {type(tokenizer).__name__}, does not tell which tokens make a word; "
            f"take one with a tokenizer.json, or mask single tokens"
        )
        raise ConfigError(msg)
    encoded = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    for number, (text, ids) in enumerate(zip(texts, encoded["input_ids"], strict=True)):
        pieces_T = np.array(encoded.word_ids(number), np.int32)
        offsets_T2 = np.array(encoded["offset_mapping"][number], np.int32).reshape(-1, 2)
        yield np.array(ids, np.int32), _words(text, pieces_T, offsets_T2)


def _words(text: str, pieces_T: np.ndarray, offsets_T2: np.ndarray) -> np.ndarray:
    """Return which word of a text each token belongs to, from 1 on: [T] int32."""
    begins = np.zeros(len(text) + 1, np.int32)
    begins[[match.start() + 1 for match in _BEGINS.finditer(text)]] = 1
    begun = begins.cumsum(dtype=np.int32)  # how many words begin before each letter
    cut_T = np.ones(len(pieces_T), bool)
    # From behind one token to the first letter of the next; nothing where they share a letter.
    behind, first = offsets_T2[:-1, 1], offsets_T2[1:, 0]
    begins_between = begun[np.minimum(first + 1, len(text))] > begun[behind]
    cut_T[1:] = (pieces_T[1:] != pieces_T[:-1]) | begins_between
    return cut_T.cumsum(dtype=np.int32)


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
