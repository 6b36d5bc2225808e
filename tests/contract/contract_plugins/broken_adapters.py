"""Adapters that break one promise each."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ontogeny import Component, hookimpl
from ontogeny.adapter import Bundle
from ontogeny.head import Head
from ontogeny.options import Model

from .working import LastLayer, components


class Moves(LastLayer):
    def apply(self, bundle: Bundle) -> Bundle:
        with torch.no_grad():
            bundle.model.get_input_embeddings().weight.mul_(1.001)  # type: ignore[operator]
        return bundle


class Freezes(LastLayer):
    def apply(self, bundle: Bundle) -> Bundle:
        bundle.model.requires_grad_(requires_grad=False)
        return bundle


class AppliesToNothing(LastLayer):
    def apply(self, bundle: Bundle) -> Any:
        return super().apply(bundle).model


class SettlesNothing(LastLayer):
    def settle(self, bundle: Bundle) -> Any:
        return None


class Forgets(LastLayer):
    def settle(self, bundle: Bundle) -> Bundle:
        with torch.no_grad():
            for parameter in bundle.model.parameters():
                if parameter.requires_grad:
                    parameter.fill_(1)
        return bundle


class LeavesAHook(LastLayer):
    """Adds a bias to the logits that nobody loads again."""

    def apply(self, bundle: Bundle) -> Bundle:
        bundle = super().apply(bundle)
        model, layer = bundle.model, bundle.model.get_output_embeddings()
        model.extra_bias = nn.Parameter(torch.zeros(layer.weight.shape[0]))
        layer.register_forward_hook(lambda _, __, logits: logits + model.extra_bias)
        return bundle


class Renames(LastLayer):
    """Adds tokens to the tokenizer that it is given, not to a copy."""

    def extend(self, tokenizer: PreTrainedTokenizerBase, corpus: Any) -> PreTrainedTokenizerBase:
        tokenizer.add_tokens([str(next(corpus.rows("data"))["text"])])
        return tokenizer


class KeepsToItself(LastLayer):
    """Extends the tokenizer, but leaves the old one in the bundle."""

    def extend(self, tokenizer: PreTrainedTokenizerBase, corpus: Any) -> PreTrainedTokenizerBase:
        extended = deepcopy(tokenizer)
        extended.add_tokens([str(next(corpus.rows("data"))["text"])])
        return extended


class _Nowhere(Head):
    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        raise NotImplementedError

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        pass


class SavesNothing(LastLayer):
    def settle(self, bundle: Bundle) -> Bundle:
        return Bundle(bundle.model, bundle.tokenizer, _Nowhere())


@hookimpl
def ontogeny_adapters() -> list[Component]:
    return components(globals())
