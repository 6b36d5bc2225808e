"""PEFT's folders: an adapter beside the base model that it was trained on."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig

from ontogeny.checkpoint import base_of_adapter
from ontogeny.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection

    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
# The config of base and adapter together: its labels, its vocabulary. Not config.json, with which
# transformers would take the folder for a whole model.
MODEL_CONFIG = "model_config.json"
PREFIX = "base_model.model."  # what PEFT puts in front of every name
LONGEST_REASON = 300  # characters of what a library says
SIZES = ("model_type", "hidden_size", "num_hidden_layers")


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk; `key` is the option that names it, for messages."""

    key: str
    source: str

    @property
    def base(self) -> str:
        """The folder or Hub name of the base model; raises CheckpointError if it is not there."""
        return base_of_adapter(self.key, self.source)

    def config(self) -> PreTrainedConfig:
        """Return the config to load the base with: its own sizes, the labels of the adapter."""
        base = cast("PreTrainedConfig", AutoConfig.from_pretrained(self.base))
        file = Path(self.source) / MODEL_CONFIG
        if not file.is_file():  # written by PEFT alone
            return base
        config = cast("PreTrainedConfig", AutoConfig.from_pretrained(file))
        sizes = [[getattr(each, name, None) for name in SIZES] for each in (config, base)]
        if sizes[0] != sizes[1]:
            self._fail(
                f"an adapter for {_describe(config)}, which does not fit its base {self.base!r}: "
                f"{_describe(base)}"
            )
        config.vocab_size = base.vocab_size
        if (config.pad_token_id or 0) >= base.vocab_size:  # a row that the adapter brings along
            config.pad_token_id = None
        return config

    def merge_into(self, model: PreTrainedModel) -> PreTrainedModel:
        """Add the adapter and all that was trained beside it to its base; return a plain model."""
        from peft import PeftModel  # noqa: PLC0415  seconds to import

        saved = self._shapes()
        _fit_vocabulary(model, saved)
        self._tell_padding(model)
        what = "does not fit"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.filterwarnings("error", message="Found missing adapter keys")
                adapted = PeftModel.from_pretrained(cast("Any", model), self.source)
                self._require_all_loaded(adapted, saved)
                what = "cannot be merged into"
                merged = cast("Any", adapted).merge_and_unload(safe_merge=True)
        except CheckpointError:
            raise
        except Exception as error:  # each method of PEFT refuses in its own way
            reason = " ".join(str(error).split())[:LONGEST_REASON]
            msg = f"an adapter that {what} its base {self.base!r}: {reason}"
            raise CheckpointError(f"{self.key} is {self.source!r}, {msg}") from error
        merged.requires_grad_(True)
        merged.name_or_path = self.source
        return cast("PreTrainedModel", merged)

    def _tell_padding(self, model: PreTrainedModel) -> None:
        """Name the padding token of the adapter once the model has a row for it."""
        file = Path(self.source) / MODEL_CONFIG
        if file.is_file() and model.config.pad_token_id is None:
            model.config.pad_token_id = AutoConfig.from_pretrained(file).pad_token_id

    def names(self) -> set[str]:
        """Return the names of all weights in the folder, as the base names them."""
        names = (name.removeprefix(PREFIX) for name in self._shapes())
        return {re.sub(r"(\.base_layer)+\.", ".", name) for name in names}

    def _shapes(self) -> dict[str, list[int]]:
        """Return the shape of every tensor in the folder by its name."""
        file = Path(self.source) / WEIGHTS
        if not file.is_file():
            self._fail(f"which holds no {WEIGHTS}; expected an adapter that PEFT has saved")
        with safe_open(file, "pt") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118  no dictionary

    def _require_all_loaded(self, adapted: Any, saved: Collection[str]) -> None:
        """Refuse an adapter with weights for layers that its base lacks: PEFT passes over them."""
        from peft import get_peft_model_state_dict  # noqa: PLC0415

        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        strangers = [name for name in saved if name not in own and name not in adapted.state_dict()]
        if strangers:
            self._fail(
                f"an adapter with {len(strangers)} weights for which its base {self.base!r} has no "
                f"layer, such as {strangers[0].removeprefix(PREFIX)}"
            )

    def _fail(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.key} is {self.source!r}, {what}")


def _fit_vocabulary(model: PreTrainedModel, saved: dict[str, list[int]]) -> None:
    """Give a base as many rows as the embeddings that were saved with the adapter."""
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    shape = saved.get(f"{PREFIX}{name}.weight")
    if shape is not None and shape[0] != len(cast("Any", embedding).weight):
        model.resize_token_embeddings(shape[0], mean_resizing=False)


def _describe(config: PreTrainedConfig) -> str:
    sizes = [f"{name} {getattr(config, name, None)}" for name in SIZES[1:]]
    return f"{config.model_type} ({', '.join(sizes)})"
