"""Pairs of answers, each in a row of its own, and their rewards."""
# P pairs, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from ontogeny.attention import model_inputs
from ontogeny.chat.pairs import apart
from ontogeny.data.collation import collate_tokens
from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from ontogeny.objective import Batch, Example


def collate_answers(examples: Sequence[Example]) -> Batch:
    """Return the answers of branched rows: chosen, rejected, chosen, … input_ids [2P, T]."""
    return collate_tokens([_whole(side) for example in examples for side in apart(example)])


def _whole(side: Example) -> Example:
    """Return all tokens of an answer: the last one is only a label, where answers are predicted."""
    return {"input_ids": np.append(side["input_ids"], side["labels"][-1])}


def rewards(model: nn.Module, batch: Batch) -> Tensor:
    """Return the reward of each row, [2P]; raise ConfigError for a model that gives none.

    Padding gets the id that the config names for it: transformers' classes go by that.
    """
    inputs = model_inputs(model, {name: batch[name] for name in INPUTS if name in batch})
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    if "attention_mask" in batch and config.pad_token_id is not None:
        is_padding = batch["attention_mask"] == 0
        inputs["input_ids"] = batch["input_ids"].masked_fill(is_padding, config.pad_token_id)
    logits = cast("Tensor | None", getattr(model(**inputs), "logits", None))
    if logits is None or logits.ndim != 2 or logits.shape[1] != 1:
        msg = f"{type(model).__name__} gives no reward: this goes with head=reward"
        raise ConfigError(msg)
    return logits[:, 0].float()


INPUTS = ("input_ids", "attention_mask")
