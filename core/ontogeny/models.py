"""Models out of checkpoints and architectures, for heads that use transformers' Auto classes."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from ontogeny.adapter_folder import AdapterFolder
from ontogeny.attention import first_position
from ontogeny.checkpoint import is_adapter_folder
from ontogeny.errors import CheckpointError, ConfigError, OntogenyError
from ontogeny.quantization import freeze, is_quantised, quantization_config
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.options import Model

LONGEST_REASON = 300  # characters of what a library says
_NEW = "_new_weights"  # attribute of a model: names of what its checkpoint did not hold


def load_pretrained(
    auto: type,
    model: Model,
    changes: Mapping[str, object],
    *,
    dtype: torch.dtype | str = torch.float32,
    key: str = "model.source",
) -> PreTrainedModel:
    """Load `model.source` with float32 master weights, in train mode.

    `dtype="auto"` keeps the numbers that are stored; `key` is what names the source, for messages.
    An adapter beside its base is merged into it; weights in few bits (`model.quantization`) come
    frozen. `changes` are config values that the head needs; those that the config does not have
    are left out. Raises CheckpointError when the folder or Hub name cannot be opened with `auto`,
    or lacks weights of the body: those of a head may be new.
    """
    disable_progress_bar()  # of transformers, one for each file
    source = str(model.source)
    adapter = AdapterFolder(key, source) if is_adapter_folder(source) else None
    loaded, missing = _open(auto, model, changes, adapter, dtype, key)
    if adapter is not None:
        loaded, missing = adapter.merge_into(loaded), missing - adapter.names()
    vars(loaded)[_NEW] = frozenset(missing)
    if is_quantised(loaded):
        freeze(loaded)
    cast("nn.Module", loaded).train()
    return loaded


def _open(
    auto: type,
    model: Model,
    changes: Mapping[str, object],
    adapter: AdapterFolder | None,
    dtype: torch.dtype | str,
    key: str,
) -> tuple[PreTrainedModel, set[str]]:
    """Return the model, or the base of the adapter, and the names of weights that it lacks."""
    source = str(model.source)
    weights, named = source, f"{key} is {source!r}"
    if adapter is not None:
        weights = adapter.base
        named += f", an adapter on {weights!r}"
    try:
        config = AutoConfig.from_pretrained(source) if adapter is None else adapter.config()
        _require_family(named, auto, config)
        _apply(config, changes)
        loaded, info = auto.from_pretrained(  # type: ignore[attr-defined]
            weights,
            config=config,
            dtype=dtype,
            attn_implementation=_attention(model),
            output_loading_info=True,
            **_quantised(model, config, adapter),
        )
    except OntogenyError:
        raise
    except Exception as error:  # each family, and each format, fails in its own way
        exists = Path(weights).exists()
        what = "cannot be opened" if exists else "is no folder nor a reachable Hub name"
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise CheckpointError(f"{named}, which {what}: {reason}") from error
    _require_body(weights, loaded, info["missing_keys"])
    return loaded, set(info["missing_keys"])


def writing_config(key: str, source: str) -> PreTrainedConfig:
    """Return the config of a checkpoint that writes text; raise CheckpointError for another."""
    adapter = AdapterFolder(key, source) if is_adapter_folder(source) else None
    try:
        config = AutoConfig.from_pretrained(source) if adapter is None else adapter.config()
    except OntogenyError:
        raise
    except Exception as error:  # the kinds differ between what is damaged
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        msg = f"{key} is {source!r}, which holds no config that can be read: {reason}"
        raise CheckpointError(msg) from error
    for name in config.architectures or ():
        kind = getattr(transformers, name, None)
        if kind is not None and not kind.can_generate():
            msg = f"{key} is {source!r}, which holds a {name}: it writes no text"
            raise CheckpointError(msg)
    return cast("PreTrainedConfig", config)


def _require_family(named: str, auto: type, config: PreTrainedConfig) -> None:
    families = getattr(auto, "_model_mapping", None)
    if families is None or type(config) in families or hasattr(config, "auto_map"):
        return
    both = " (seq2seq_lm is the one of an encoder with a decoder)"
    msg = (
        f"{named}, a {config.model_type} model, which {auto.__name__} does not open: choose a head "
        f"of its kind{both if config.is_encoder_decoder else ''}"
    )
    raise CheckpointError(msg)


def _quantised(
    model: Model, config: PreTrainedConfig, adapter: AdapterFolder | None
) -> dict[str, object]:
    name = model.quantization
    if name is not None and adapter is not None:
        msg = (
            f"model.quantization is {name!r}, but model.source is {model.source!r}, an adapter "
            f"beside its base: train that with adapter.<name>.merge=true to have a whole model"
        )
        raise ConfigError(msg)
    return {} if name is None else {"quantization_config": quantization_config(name, config)}


def new_weights(model: nn.Module) -> frozenset[str]:
    """Return the names of weights that the model's checkpoint did not hold: those of a new head.

    Empty for a model that did not come out of one.
    """
    return cast("frozenset[str]", vars(model).get(_NEW, frozenset()))


def plain_weights(model: PreTrainedModel) -> set[str]:
    """Return the names of the weights that a model has by its config, before any adapter."""
    with torch.device("meta"):
        return {*type(model)(copy.deepcopy(model.config)).state_dict()}


def name_matches(pattern: str, name: str) -> bool:
    """Say whether a pattern is a module's or weight's name, its end, or a regex for all of it."""
    if name == pattern or name.endswith(f".{pattern}"):
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        msg = f"{pattern!r} is no name of a layer and no regular expression: {error}"
        raise ConfigError(msg) from error


def trained_share(model: PreTrainedModel) -> str:
    """Say how many weights are trainable, and which share of all that is."""
    trained, every = model.num_parameters(only_trainable=True), model.num_parameters()
    return f"{trained:,} of {every:,} weights ({trained / every:.3%})"


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
    if model.quantization is not None:
        msg = (
            f"model.quantization is {model.quantization!r}, but there is no model.source: random "
            f"weights are for training, and weights in few bits are not"
        )
        raise ConfigError(msg)
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
    _require_whole_heads(config)
    _apply(config, changes)
    config._attn_implementation = _attention(model)  # noqa: SLF001  as from_config's argument does
    return config


def _require_whole_heads(config: PreTrainedConfig) -> None:
    """Raise ConfigError where heads of keys cannot be shared evenly: most families do not look."""
    heads, shared = (
        getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads")
    )
    if isinstance(heads, int) and isinstance(shared, int) and (shared < 1 or heads % shared):
        msg = (
            f"model.config.num_attention_heads is {heads} and num_key_value_heads is {shared}; "
            f"expected a multiple of it: set both"
        )
        raise ConfigError(msg)


def longest_context(model: PreTrainedModel) -> int | None:
    """Return how many tokens the model can read, or None where it sets no limit.

    In the family of RoBERTa the first positions are for padding: 514 of them are 512 tokens.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None else int(positions) - first_position(cast("nn.Module", model))


def random_weights(auto: type, config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model with random weights from torch's current seed; float32, train mode."""
    attention = config._attn_implementation  # noqa: SLF001
    try:
        built = auto.from_config(  # type: ignore[attr-defined]
            config, dtype=torch.float32, attn_implementation=attention
        )
    except Exception as error:  # each family, and each kernel, refuses in its own way
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        msg = (
            f"cannot build a {config.model_type} model with model.attention={attention or 'auto'}: "
            f"{reason}"
        )
        raise ConfigError(msg) from error
    return cast("PreTrainedModel", built.train())


def _attention(model: Model) -> str | None:
    """Return the kernel that is asked for; none: transformers chooses."""
    return None if model.attention == "auto" else model.attention


def _apply(config: PreTrainedConfig, changes: Mapping[str, object]) -> None:
    for name, value in changes.items():
        if _knows(config, name):
            setattr(config, name, value)


def _knows(config: PreTrainedConfig, name: str) -> bool:
    return name in config.to_dict() or name in config.attribute_map or hasattr(config, name)
