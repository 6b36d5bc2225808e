"""Hugging Face folders: a whole model, or an adapter beside its base."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoTokenizer

from ontogeny.checkpoint import (
    ADAPTER,
    GENERATION,
    base_of_adapter,
    is_adapter_folder,
    read_object,
    save_checkpoint,
    save_tokenizer,
)
from ontogeny.errors import ConfigError
from ontogeny.exporter import Exported, Exporter
from ontogeny.folders import write_text
from ontogeny.options import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.head import Head
    from ontogeny_plugins.export import Peft, SafeTensors

# Rounding a weight to so many bits moves the outputs of a deep model by several times its step.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


class OpenedModel(Exported):
    """A model with its tokenizer, opened out of a folder."""

    def __init__(self, model: nn.Module, folder: Path) -> None:
        self.model = model.eval()
        self.tokenizer = cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder))

    def outputs(self, ids: Sequence[int]) -> Tensor:
        """Return the first output of one row."""
        with torch.no_grad():
            found = self.model(input_ids=torch.tensor([ids]))
        return cast("Tensor", found[0][0]).float()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return cast("list[int]", self.tokenizer.encode(text, add_special_tokens=False))


class SafeTensorsExporter(Exporter):
    """Saves a copy in the chosen precision."""

    def __init__(self, config: SafeTensors) -> None:
        self.config = config
        self.tolerance = TOLERANCES[config.dtype]
        self._head: Head

    def export(self, bundle: Bundle, source: str, folder: Path) -> None:
        """Write weights, config, tokenizer, template and generation config."""
        del source
        self._head = bundle.head
        dtype = getattr(torch, self.config.dtype)
        model = bundle.model
        if dtype != torch.float32:
            model = cast("Any", copy.deepcopy(model)).to(dtype)
        save_checkpoint(type(bundle)(model, bundle.tokenizer, bundle.head), folder, {})

    def open(self, folder: Path) -> Exported:
        """Open the folder with the head of the stage."""
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = self._head.load(Model(source=str(folder)), tokenizer)
        return OpenedModel(cast("nn.Module", model), folder)


class PeftExporter(Exporter):
    """Copies what PEFT reads, with the tokenizer and what generation needs."""

    tolerance = 1e-4  # merging adds in another order

    def __init__(self, config: Peft) -> None:
        self.config = config
        self._base = ""
        self._class: type

    def check(self, bundle: Bundle, source: str) -> None:
        """Raise ConfigError for a checkpoint that is a whole model."""
        del bundle
        if not is_adapter_folder(source):
            msg = (
                f"exporter=[peft] writes an adapter beside its base, and model.source is "
                f"{source!r}, a whole model: train with adapter.<name>.merge=false to have an "
                f"adapter, or choose another format, such as exporter=[safetensors]"
            )
            raise ConfigError(msg)

    def export(self, bundle: Bundle, source: str, folder: Path) -> None:
        """Copy the adapter; name its base as asked for."""
        self._base, self._class = base_of_adapter("model.source", source), type(bundle.model)
        for file in Path(source).glob("adapter_model*"):
            shutil.copy(file, folder)
        config = read_object(Path(source) / ADAPTER)
        config["base_model_name_or_path"] = self.config.base or str(Path(self._base))
        write_text(folder / ADAPTER, json.dumps(config, indent=2) + "\n")
        if (generation := Path(source) / GENERATION).exists():
            shutil.copy(generation, folder)
        save_tokenizer(bundle.tokenizer, folder)

    def open(self, folder: Path) -> Exported:
        """Put the adapter on its base with PEFT alone."""
        from peft import PeftModel  # noqa: PLC0415  seconds to import

        tokenizer = AutoTokenizer.from_pretrained(folder)
        base = cast("Any", self._class).from_pretrained(self._base, dtype=torch.float32)
        if len(tokenizer) > len(base.get_input_embeddings().weight):
            base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(base, folder)
        return OpenedModel(adapted, folder)
