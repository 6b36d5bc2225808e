"""Words and the tokens that they are made of."""
# T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from ontogeny.attention import model_inputs
from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Batch


def aligned(
    sentences: Sequence[Sequence[str]], separator: str, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each sentence its token ids, and the word that each token is of, [T] both.

    Words are joined to a text as the model has seen texts. Special tokens, and those of nothing
    but space, are of word -1; a token over two words is of the first. Raises ConfigError for
    tokenizers that do not tell where their tokens stand.
    """
    if not tokenizer.is_fast:
        msg = (
            f"the tokenizer, a {type(tokenizer).__name__}, does not tell where its tokens stand in "
            f"the text; tagging needs one with a tokenizer.json"
        )
        raise ConfigError(msg)
    texts = [separator.join(words) for words in sentences]
    encoded = tokenizer(
        texts, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    for number, words in enumerate(sentences):
        owner = _owners(words, separator)
        special_T = encoded["special_tokens_mask"][number]
        spans_T = encoded["offset_mapping"][number]
        word_T = [
            -1 if special else _word(owner, *span)
            for special, span in zip(special_T, spans_T, strict=True)
        ]
        yield np.array(encoded["input_ids"][number], np.int32), np.array(word_T, np.int32)


def first_tokens(word_T: np.ndarray) -> np.ndarray:
    """Return where each word begins that has a token, as a mask, [T]."""
    first_T = np.zeros(len(word_T), bool)
    _, places = np.unique(word_T, return_index=True)
    first_T[places] = True
    return first_T & (word_T >= 0)


def tag_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the scores of a model for each token, [B, T, C]; raise ConfigError if it has none."""
    logits = getattr(model(**model_inputs(model, batch)), "logits", None)
    if logits is None or logits.ndim != 3 or logits.shape[-1] != len(model.config.id2label):  # type: ignore[union-attr, arg-type]
        msg = (
            f"{type(model).__name__} has no scores of tags for each token: tagging goes with "
            f"head=token_classification"
        )
        raise ConfigError(msg)
    return cast("Tensor", logits)


def _owners(words: Sequence[str], separator: str) -> list[int]:
    """Return the word of every character, -1 for what stands between them."""
    owner: list[int] = []
    for number, word in enumerate(words):
        owner += [number] * len(word) + [-1] * len(separator)
    return owner


def _word(owner: Sequence[int], start: int, stop: int) -> int:
    return next((word for word in owner[start:stop] if word >= 0), -1)
