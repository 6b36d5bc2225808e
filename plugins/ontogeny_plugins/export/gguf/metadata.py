"""The sizes of a model, in the words of GGUF."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from ontogeny_plugins.export.gguf.families import rotation

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def write_sizes(writer: Any, config: PreTrainedConfig) -> None:
    """Write what llama.cpp builds the model by."""
    width, heads = config.hidden_size, config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(width)
    writer.add_vocab_size(config.vocab_size)
    writer.add_head_count(heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * width)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    size = int(getattr(config, "head_dim", None) or width // heads)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(size)
    _write_rotation(writer, rotation(config))


def _write_rotation(writer: Any, parameters: dict[str, object]) -> None:
    """Write the base, and how it is stretched; that of Llama 3 is a tensor of its own."""
    writer.add_rope_freq_base(float(cast("float", parameters.get("rope_theta", 10000.0))))
    kind = parameters.get("rope_type", "default")
    if kind not in {"linear", "yarn"}:
        return
    scaling = import_module("gguf").RopeScalingType
    writer.add_rope_scaling_type(scaling.LINEAR if kind == "linear" else scaling.YARN)
    writer.add_rope_scaling_factor(float(cast("float", parameters["factor"])))
    if kind == "linear":
        return
    writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])
    optional = {
        "attention_factor": writer.add_rope_scaling_yarn_attn_factor,
        "beta_fast": writer.add_rope_scaling_yarn_beta_fast,
        "beta_slow": writer.add_rope_scaling_yarn_beta_slow,
    }
    for name, add in optional.items():
        if parameters.get(name) is not None:
            add(float(cast("float", parameters[name])))
