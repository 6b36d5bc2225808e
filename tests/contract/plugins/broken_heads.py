"""Heads that break one promise each."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from working import Built, components

from ontogeny import Component, hookimpl
from ontogeny.head import Head
from ontogeny.models import architecture, load_pretrained, random_weights
from ontogeny.options import Model

Tokenizer = PreTrainedTokenizerBase


class Working(Built, Head):
    def load(self, model: Model, tokenizer: Tokenizer) -> PreTrainedModel:
        if model.source is not None:
            return load_pretrained(AutoModelForCausalLM, model, {})
        return random_weights(AutoModelForCausalLM, architecture(model, tokenizer, {}))


class HalfPrecision(Working):
    def load(self, model: Model, tokenizer: Tokenizer) -> PreTrainedModel:
        return super().load(model, tokenizer).to(torch.bfloat16)  # type: ignore[arg-type]


class EvalMode(Working):
    def load(self, model: Model, tokenizer: Tokenizer) -> PreTrainedModel:
        return super().load(model, tokenizer).eval()


class LoadsInEvalMode(Working):
    def load(self, model: Model, tokenizer: Tokenizer) -> PreTrainedModel:
        return super().load(model, tokenizer).train(model.source is None)


class Unseeded(Working):
    def load(self, model: Model, tokenizer: Tokenizer) -> PreTrainedModel:
        torch.seed()
        return super().load(model, tokenizer)


class SavesPickles(Working):
    def save(self, model: PreTrainedModel, folder: Path) -> None:
        torch.save(model.state_dict(), folder / "weights.pt")


class SavesTheBody(Working):
    def save(self, model: PreTrainedModel, folder: Path) -> None:
        model.base_model.save_pretrained(folder)


@hookimpl
def ontogeny_heads() -> list[Component]:
    return components(globals())
