"""Texts that belong together, and their embeddings."""
# B rows, T tokens, D width

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from torch.nn import functional as F

from ontogeny.attention import model_inputs
from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Batch, Row

COLUMNS = (("prompt", "chosen", "rejected"), ("prompt", "completion"))


def pair_of(row: Row) -> list[str]:
    """Return prompt and completion, or prompt, chosen and rejected; raise ValueError for others."""
    names = next(names for names in COLUMNS if all(name in row for name in names))
    for name in names:
        if not isinstance(row[name], str) or not cast("str", row[name]).strip():
            what = "empty" if isinstance(row[name], str) else f"a {type(row[name]).__name__}"
            raise ValueError(f"{name} is {what}; expected text")
    return [cast("str", row[name]) for name in names]


def token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Return the ids of each text with the tokenizer's special tokens, [T]."""
    encoded = tokenizer(list(texts), verbose=False)["input_ids"]
    return [np.array(ids, np.int32) for ids in encoded]


def embeddings(model: nn.Module, batch: Batch, side: str = "") -> Tensor:
    """Return the embeddings of one side of a batch, of length 1, [B, D] float32.

    Raises ConfigError for a model without embeddings.
    """
    prefix = f"{side}_" if side else ""
    names = ("input_ids", "attention_mask")
    part = {name: batch[prefix + name] for name in names if prefix + name in batch}
    found = getattr(model(**model_inputs(model, part)), "embeddings", None)
    if found is None:
        msg = f"{type(model).__name__} has no embeddings: contrastive goes with head=embedding"
        raise ConfigError(msg)
    return F.normalize(found.float(), dim=-1)
