"""Keys and values of the tokens already read, in memory that is reserved once.

The layers of transformers' own cache copy all earlier tokens for every new one, and under autocast
keep keys in float32, to be cast again each time they are read.
"""
# B texts, H heads, T tokens, D width of a head

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREPARE = "_prepare_cache_for_generation"


def reserved_cache(model: PreTrainedModel, tokens: int) -> DynamicCache | None:
    """Return a cache for `model.generate` with room for so many tokens of each text.

    Layers that attend to all tokens get reserved memory, others what transformers gives them. None
    for a model with a cache of its own kind, which must make it itself.
    """
    inner = cast("PreTrainedModel", getattr(model, "get_base_model", lambda: model)())
    kind = type(inner)
    own = getattr(kind, PREPARE, None) is not getattr(GenerationMixin, PREPARE)
    # transformers hands Mamba's over by another name.
    named = "mamba" in kind.__name__.lower()
    if own or named or inner.config.is_encoder_decoder or not _takes_cache(inner):
        return None
    cache = DynamicCache(config=inner.config.get_text_config(decoder=True))
    layers = [
        ReservedLayer(tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    if not any(isinstance(layer, ReservedLayer) for layer in layers):
        return None
    cache.layers = layers
    return cache


def _takes_cache(model: PreTrainedModel) -> bool:
    return bool(model._supports_default_dynamic_cache())  # type: ignore[operator]  # noqa: SLF001


class ReservedLayer(DynamicLayer):
    """Keys and values of a layer, [B, H, T, D]: views of memory for `tokens`, or more if needed."""

    def __init__(self, tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokens = tokens
        self.reserved: list[Tensor] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Begin with no token; as autocast reads keys and values, so they are kept."""
        super().lazy_initialization(key_states, value_states)
        kind = self.device.type
        if key_states.dtype == torch.float32 and torch.is_autocast_enabled(kind):
            self.dtype = torch.get_autocast_dtype(kind)
        self.keys = self._new(key_states, 0)
        self.values = self._new(value_states, 0)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add tokens; return all keys and all values, [B, H, T, D]."""
        del args, kwargs
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = cast("Tensor", self.keys), cast("Tensor", self.values)
        before = held[0].shape[-2]
        after = before + key_states.shape[-2]
        if not self._is_reserved(held, after):
            self.tokens = max(self.tokens, 2 * before, after)
            self.reserved = [self._new(each, self.tokens) for each in held]
            for memory, old in zip(self.reserved, held, strict=True):
                memory[:, :, :before] = old
        for memory, new in zip(self.reserved, (key_states, value_states), strict=True):
            memory[:, :, before:after] = new
        self.keys, self.values = (memory[:, :, :after] for memory in self.reserved)
        return self.keys, self.values

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        self.reserved = []

    def _is_reserved(self, held: tuple[Tensor, Tensor], tokens: int) -> bool:
        """Say whether so many tokens fit, and what is held was not replaced by another tensor."""
        if not self.reserved or tokens > self.reserved[0].shape[-2]:
            return False
        return all(
            memory.data_ptr() == each.data_ptr() and memory.stride() == each.stride()
            for memory, each in zip(self.reserved, held, strict=True)
        )

    def _new(self, like: Tensor, tokens: int) -> Tensor:
        batch, heads, _, width = like.shape
        return like.new_empty((batch, heads, tokens, width), dtype=self.dtype)
