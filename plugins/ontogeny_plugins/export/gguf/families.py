"""Which families of models GGUF files are written for, and what differs between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """A family as llama.cpp knows it."""

    architecture: str  # its name there
    activation: str  # the only one that it computes
    # Whether rotary embeddings turn neighbours there: transformers turns halves, so that rows of
    # queries and keys change places.
    turns_neighbours: bool = False
    transposed: tuple[str, ...] = ()  # ends of names of layers that are stored the other way round


FAMILIES = {
    "llama": Family("llama", "silu", turns_neighbours=True),
    "mistral": Family("llama", "silu", turns_neighbours=True),
    "qwen2": Family("qwen2", "silu"),
    "qwen3": Family("qwen3", "silu"),
    "gpt2": Family("gpt2", "gelu_new", transposed=("c_attn", "c_proj", "c_fc")),
}
ROTATIONS = ("default", "linear", "llama3", "yarn")


def family_of(model: PreTrainedModel) -> Family:
    """Return the family; raise ConfigError, with all that is supported, for another."""
    config = model.config
    family = FAMILIES.get(config.model_type)
    if family is None or not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        msg = (
            f"exporter=[gguf] does not support a {type(model).__name__} (model_type "
            f"{config.model_type}); supported are causal language models of {', '.join(FAMILIES)}; "
            f"exporter=[safetensors] and exporter=[onnx] write others"
        )
        raise ConfigError(msg)
    for what, value, allowed in _facts(config, family):
        if value not in allowed:
            known = " or ".join(repr(each) for each in allowed)
            msg = (
                f"exporter=[gguf]: {what} of the model is {value!r}, and llama.cpp computes "
                f"{config.model_type} with {known} alone; choose another format, such as "
                f"exporter=[onnx]"
            )
            raise ConfigError(msg)
    return family


def rotation(config: PreTrainedConfig) -> dict[str, object]:
    """Return the parameters of the rotary embedding; empty where there is none."""
    found: dict[str, object] = getattr(config, "rope_parameters", None) or {}
    return found


def _facts(
    config: PreTrainedConfig, family: Family
) -> list[tuple[str, object, tuple[object, ...]]]:
    """Return what must have one of a few values."""
    activation = "activation_function" if config.model_type == "gpt2" else "hidden_act"
    window = getattr(config, "sliding_window", None)
    uses_window = getattr(config, "use_sliding_window", True) and window is not None
    shorter = bool(uses_window and window < config.max_position_embeddings)
    facts: list[tuple[str, object, tuple[object, ...]]] = [
        (activation, getattr(config, activation), (family.activation,)),
        ("sliding_window", window if shorter else None, (None,)),
        ("rope_type", rotation(config).get("rope_type", "default"), ROTATIONS),
    ]
    if config.model_type == "gpt2":
        facts += [
            ("scale_attn_by_inverse_layer_idx", config.scale_attn_by_inverse_layer_idx, (False,)),
            ("scale_attn_weights", config.scale_attn_weights, (True,)),
        ]
    return facts
