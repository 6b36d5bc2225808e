"""How many tokens a tokenizer makes of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Fertility:
    """The size of a text in tokens, words (between spaces) and bytes (of UTF-8)."""

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
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    words = sum(len(text.split()) for text in texts)
    return Fertility(sum(map(len, encoded)), words, sum(len(text.encode()) for text in texts))
