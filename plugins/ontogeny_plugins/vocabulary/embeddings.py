"""The rows of a model's vocabulary: more of them, and what stands in the new ones."""
# N new tokens, V old tokens, D width

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ontogeny_plugins.vocabulary.expansion import Expansion
    from ontogeny_plugins.vocabulary.initialisation.mixture import Rows


def grow(model: PreTrainedModel, expansion: Expansion, rows: Rows) -> None:
    """Give a model rows for new tokens, in its input and its output matrix.

    Rows that were there as padding are used first, and written anew.
    """
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        msg = (
            f"adapter=[...]: vocabulary comes after an adapter that wraps the embeddings in "
            f"{type(embedding).__name__}; put vocabulary first, as in 'adapter=[vocabulary,lora]'"
        )
        raise ConfigError(msg)
    known = min(expansion.first_id, len(embedding.weight))
    _resize(model, max(len(embedding.weight), expansion.ids.stop))
    new = slice(expansion.ids.start, expansion.ids.stop)
    with torch.no_grad():
        for matrix_VD in vocabulary_matrices(model):
            matrix_VD[new] = rows(matrix_VD[:known].clone())
        bias_V = output_bias(model)
        if bias_V is not None:  # a column of the output matrix, in effect
            bias_V[new] = rows(bias_V[:known, None].clone()).squeeze(1)


def vocabulary_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the input matrix and, where it is another one, the output matrix."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [cast("nn.Parameter", layer.weight) for layer in layers if layer is not None]
    return weights[:1] if weights[0] is weights[-1] else weights


def output_bias(model: PreTrainedModel) -> nn.Parameter | None:
    """Return the bias of the output layer, one number for each token, where there is one."""
    layer = model.get_output_embeddings()
    return cast("nn.Parameter | None", getattr(layer, "bias", None))


def vocabulary_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return all that has a row for each token."""
    bias = output_bias(model)
    return [*vocabulary_matrices(model), *([] if bias is None else [bias])]


def _resize(model: PreTrainedModel, rows: int) -> None:
    # The library draws the new rows at random, only for them to be written over.
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(rows, mean_resizing=False)
