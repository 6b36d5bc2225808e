"""Models out of checkpoints and architectures, for heads that use transformers' Auto classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from ontogeny.errors import CheckpointError, ConfigError
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.options import Model

LONGEST_REASON = 300  # characters of what a library says


def load_pretrained(auto: type, model: Model, changes: Mapping[str, object]) -> PreTrainedModel:
    """Load `model.source` with float32 master weights, in train mode.

    `changes` are config values that the head needs; those that the config does not have are left
    out. Raises CheckpointError when the folder or Hub name cannot be opened with `auto`, or lacks
    weights of the body: those of a head may be new.
    """
    source = str(model.source)
    disable_progress_bar()  # of transformers, one for each file
    try:
        config = AutoConfig.from_pretrained(source)
        _apply(config, changes)
        loaded, info = auto.from_pretrained(  # type: ignore[attr-defined]
            source,
            config=config,
            dtype=torch.float32,
            attn_implementation=model.attention,
            output_loading_info=True,
        )
    except Exception as error:  # each family, and each format, fails in its own way
        what = (
            "cannot be opened" if Path(source).exists() else "is no folder nor a reachable Hub name"
        )
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        msg = f"model.source is {source!r}, which {what}: {reason}"
        raise CheckpointError(msg) from error
    _require_body(source, cast("PreTrainedModel", loaded), info["missing_keys"])
    return cast("PreTrainedModel", loaded.train())


def _require_body(source: str, model: PreTrainedModel, missing: Iterable[str]) -> None:
    """Refuse a checkpoint whose body would be random in parts; poolers belong to heads."""
    prefix = f"{model.base_model_prefix}."
    absent = sorted(name for name in missing if name.startswith(prefix) and "pooler" not in name)
    if absent:
        msg = (
            f"model.source is {source!r}, which lacks {len(absent)} weights of its config, such as "
            f"{absent[0]}; restore the folder"
        )
        raise CheckpointError(msg)


def architecture(
    model: Model, tokenizer: PreTrainedTokenizerBase, changes: Mapping[str, object]
) -> PreTrainedConfig:
    """Return the transformers config of `model.config`, with the tokenizer's vocabulary."""
    values: dict[str, Any] = dict(model.config)
    family = values.pop("model_type", None)
    if family is None:
        msg = (
            "no model: choose an architecture, such as model=llama_tiny, or set model.source to a "
            "checkpoint"
        )
        raise ConfigError(msg)
    if family not in CONFIG_MAPPING:
        known = list(CONFIG_MAPPING.keys())
        hint = suggestion(str(family), known)
        msg = f"model.config.model_type is {family!r}, a family that transformers lacks{hint}"
        raise ConfigError(msg)
    kind = CONFIG_MAPPING[family]
    ids = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    unknown = [key for key in values if not _knows(kind(), key)]
    if unknown:
        names = sorted(kind().to_dict())
        msg = f"model.config.{unknown[0]} is no option of {family}{suggestion(unknown[0], names)}"
        raise ConfigError(msg)
    try:
        config = kind(**{"vocab_size": len(tokenizer), **ids, **values})
    except Exception as error:  # each family checks its own values in its own way
        msg = f"model.config does not fit a {family} model: {' '.join(str(error).split())}"
        raise ConfigError(msg) from error
    _apply(config, changes)
    config._attn_implementation = model.attention  # noqa: SLF001  as from_config's argument does
    return config


def longest_context(model: PreTrainedModel) -> int | None:
    """Return how many positions the model knows, or None where it sets no limit."""
    return cast(
        "int | None", getattr(model.config.get_text_config(), "max_position_embeddings", None)
    )


def random_weights(auto: type, config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model with random weights from torch's current seed; float32, train mode."""
    try:
        built = auto.from_config(  # type: ignore[attr-defined]
            config,
            dtype=torch.float32,
            attn_implementation=config._attn_implementation,  # noqa: SLF001
        )
    except Exception as error:  # each family, and each kernel, refuses in its own way
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        msg = (
            f"cannot build a {config.model_type} model with model.attention="
            f"{config._attn_implementation}: {reason}"  # noqa: SLF001
        )
        raise ConfigError(msg) from error
    return cast("PreTrainedModel", built.train())


def _apply(config: PreTrainedConfig, changes: Mapping[str, object]) -> None:
    for name, value in changes.items():
        if _knows(config, name):
            setattr(config, name, value)


def _knows(config: PreTrainedConfig, name: str) -> bool:
    return name in config.to_dict() or name in config.attribute_map or hasattr(config, name)
