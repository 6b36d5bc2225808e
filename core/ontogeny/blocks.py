"""The blocks of a model: where they are, whatever its family calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import nn

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of the model's blocks; raise ConfigError if it has no one list.

    Models with an encoder and a decoder have two.
    """
    count = model.config.get_text_config().num_hidden_layers
    for name, module in [] if model.config.is_encoder_decoder else model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ConfigError(
        f"{type(model).__name__} keeps its {count} blocks in no single list, so none of "
        f"them can be named by its number"
    )


def embeddings_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return all embeddings of a model, of tokens, positions and segments, but no norms."""
    body = cast("nn.Module", getattr(model, model.base_model_prefix, model))
    return [module for module in body.modules() if isinstance(module, nn.Embedding)]
