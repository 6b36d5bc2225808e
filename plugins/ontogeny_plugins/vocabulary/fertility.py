"""How many tokens a tokenizer makes of a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

# Han characters and kana are written without spaces, and stand for words of their own.
ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{ALONE}]|[^\s{ALONE}]+")


@dataclass(frozen=True)
class Fertility:
    """The size of a text in tokens, words and bytes (of UTF-8).

    A word is what stands between spaces, or a single Han or kana.
    """

    tokens: int
    words: int
    bytes: int

    @property
    def tokens_per_word(self) -> float:
        """Tokens in a word, on average."""
        return self.tokens / self.words

    @property
    def tokens_per_byte(self) -> float:
        """Tokens in a byte, on average."""
        return self.tokens / self.bytes


def fertility(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Fertility:
    """Encode texts without special tokens, and count."""
    encoded = [tokenizer(text, add_special_tokens=False, verbose=False) for text in texts]
    tokens = sum(len(each["input_ids"]) for each in encoded)
    words = sum(len(WORD.findall(text)) for text in texts)
    return Fertility(tokens, words, sum(len(text.encode()) for text in texts))
