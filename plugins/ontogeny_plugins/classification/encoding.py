"""Texts, and pairs of texts, as tokens that fit into the model: the same for training and after."""
# T tokens

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, cast

import numpy as np
from torch import nn

from ontogeny.attention import model_inputs
from ontogeny.errors import ConfigError, RowError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Batch, Example, Row

COLUMNS = (("text", "label"), ("question", "context", "label"))
PER_TOKEN = ("input_ids", "token_type_ids")


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterator[Example]:
    """Yield the tokens of each text, or of a question and its context, whole.

    `ending` are the special tokens at the end, which a text that is cut keeps, and `full_length`
    is how many tokens there are before that.
    """
    done = 0
    for _, group in groupby(rows, lambda row: "text" not in row):
        texts = list(_of_rows(group, done))
        done += len(texts)
        yield from encode_texts(texts, tokenizer)


def encode_texts(
    texts: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Example]:
    """Yield the tokens of single texts, or of pairs.

    The first of a pair gets a line of its own where the tokenizer puts nothing between them.
    """
    parts = [list(part) for part in zip(*texts, strict=True)]
    alone, pair = (tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True))
    if len(parts) == 2 and alone == pair:
        parts[0] = [f"{text}\n" for text in parts[0]]
    encoded = tokenizer(*parts, return_special_tokens_mask=True, verbose=False)
    names = [name for name in PER_TOKEN if name in encoded]
    for number, special_T in enumerate(encoded["special_tokens_mask"]):
        example = {name: np.array(encoded[name][number], np.int32) for name in names}
        length = len(special_T)
        example["ending"] = example["input_ids"][length - _trailing(special_T) :]
        example["full_length"] = np.array(length, np.int32)
        yield example


def fitted(example: Example, length: int) -> Example:
    """Cut the columns of tokens to a length; a text that lost its end gets the special tokens back.

    Columns that are that short already, because the core has cut them, are taken as they are.
    """
    cut = {name: example[name][:length] for name in PER_TOKEN if name in example}
    kept, ending = len(cut["input_ids"]), example["ending"]
    if kept < example["full_length"] and 0 < len(ending) < kept:
        ids_T = cut["input_ids"].copy()
        ids_T[-len(ending) :] = ending
        cut["input_ids"] = ids_T
    return cut


def text_inputs(model: nn.Module, batch: Batch) -> dict[str, object]:
    """Return the arguments of a model for whole texts.

    Padding gets the id that the config names for it: transformers' classes find the last token of
    a text by that id. Segment ids are for models that have embeddings for them.
    """
    inputs = model_inputs(model, batch)
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    if "attention_mask" in batch:
        is_padding = batch["attention_mask"] == 0
        ids: Tensor = batch["input_ids"]
        inputs["input_ids"] = ids.masked_fill(is_padding, config.pad_token_id or 0)
    if getattr(config, "type_vocab_size", 0) < 2:
        inputs.pop("token_type_ids", None)
    if config.is_encoder_decoder and not hasattr(config, "ontogeny_head"):
        _require_equal_ends(cast("Tensor", inputs["input_ids"]), cast("int", config.eos_token_id))
    return inputs


def _require_equal_ends(ids_BT: Tensor, end: int) -> None:
    """Raise ConfigError where transformers' classes of encoders with a decoder would fail."""
    counts = sorted({int(count) for count in (ids_BT == end).sum(-1)})
    if len(counts) > 1:
        msg = (
            f"this family's class reads a text at its end token, of which all texts need equally "
            f"many, and these have {' or '.join(map(str, counts))}: set head.pooling=mean"
        )
        raise ConfigError(msg)


def text_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the scores of a model for whole texts, [B, C]; raise ConfigError if it has none."""
    logits = getattr(model(**text_inputs(model, batch)), "logits", None)
    if logits is None or logits.ndim != 2:
        msg = (
            f"{type(model).__name__} has no scores for whole texts: classification goes with "
            f"head=sequence_classification"
        )
        raise ConfigError(msg)
    return cast("Tensor", logits)


def texts_of(row: Row) -> list[str]:
    """Return the text of a row, or question and context; raise ValueError where one is none."""
    texts = []
    for name in ("text",) if "text" in row else ("question", "context"):
        value = row[name]
        if not isinstance(value, str) or not value.strip():
            what = "empty" if isinstance(value, str) else f"a {type(value).__name__}"
            raise ValueError(f"{name} is {what}; expected text")
        texts.append(value)
    return texts


def _of_rows(rows: Iterable[Row], first: int) -> Iterator[list[str]]:
    """Yield the texts of rows of which the first has this index; raise RowError."""
    for index, row in enumerate(rows, first):
        try:
            yield texts_of(row)
        except ValueError as error:
            raise RowError(index, str(error)) from error


def _trailing(special_T: Sequence[int]) -> int:
    """Count the special tokens at the end of a text."""
    plain = np.flatnonzero(np.array(special_T) == 0)
    return len(special_T) - 1 - int(plain[-1]) if len(plain) else 0
