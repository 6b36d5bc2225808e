"""The contract of a head: the output layers, and how a backbone is loaded with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model


class Head(ABC):
    """How a model is loaded with its output layers; built as `Implementation(options)`."""

    def configure(self, facts: Mapping[str, object]) -> None:
        """Take what the objective's survey found in the data, such as the names of the labels.

        Called before `load` where there is training data; without it, `load` goes by the config of
        the checkpoint.
        """
        del facts

    @abstractmethod
    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model of `model.source`, or random weights of `model.config`.

        Weights are float32 (the master weights of mixed precision) and in train mode.
        """

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write weights (safetensors) and config, so that transformers opens the folder."""
        model.save_pretrained(folder)
