"""Heads that break one promise each."""

from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ontogeny import Component, hookimpl
from ontogeny.head import Head
from ontogeny.models import architecture, load_pretrained, random_weights
from ontogeny.options import Model

from .working import Built, components

Tokenizer = PreTrainedTokenizerBase


class Working(Built, Head):
    def load(self, model: Model, tokenizer: Tokenizer) -> PreTrainedModel:
        if model.source is not None:
            return load_pretrained(AutoModelForCausalLM, model, {})
        return random_weights(AutoModelForCausalLM, architecture(model, tokenizer, {}))


class HalfPrecision(Working):
    def load(self, model: Model, tokenizer: Tokenizer) -> PreTrainedModel:
        loaded = super().load(model, tokenizer)
        nn.Module.to(loaded, torch.bfloat16)
        return loaded


class EvalMode(Working):
    def load(self, model: Model, tokenizer: Tokenizer) -> PreTrainedModel:
        loaded = super().load(model, tokenizer)
        loaded.eval()
        return loaded


class LoadsInEvalMode(Working):
    def load(self, model: Model, tokenizer: Tokenizer) -> PreTrainedModel:
        loaded = super().load(model, tokenizer)
        loaded.train(model.source is None)
        return loaded


class Unseeded(Working):
    def load(self, model: Model, tokenizer: Tokenizer) -> PreTrainedModel:
        torch.seed()
        return super().load(model, tokenizer)


class SavesPickles(Working):
    def save(self, model: PreTrainedModel, folder: Path) -> None:
        torch.save(model.state_dict(), folder / "weights.pt")


class SavesTheBody(Working):
    def save(self, model: PreTrainedModel, folder: Path) -> None:
        cast("PreTrainedModel", model.base_model).save_pretrained(folder)


@hookimpl
def ontogeny_heads() -> list[Component]:
    return components(globals())
