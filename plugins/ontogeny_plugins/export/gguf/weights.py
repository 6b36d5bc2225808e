"""The weights of a model as GGUF has them: names, order of rows, and bits."""
# H heads, D width

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ontogeny_plugins.export.gguf.families import rotation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from ontogeny_plugins.export.gguf.families import Family

SMALL = {"Q4_0", "Q4_1", "Q5_0", "Q5_1"}  # embeddings and output stay in 8 bits beside these
OUTER = ("token_embd.weight", "output.weight")


def write_weights(writer: Any, model: PreTrainedModel, family: Family, dtype: str) -> None:
    """Add all tensors: matrices in `dtype` (GGML's name), vectors and positions in float32."""
    gguf = import_module("gguf")
    for name, tensor in named_tensors(model, family):
        kind = _kind(gguf, name, tensor, dtype)
        data = tensor.detach().float().contiguous().numpy()
        writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
    if rotation(model.config).get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(model.config))


def named_tensors(model: PreTrainedModel, family: Family) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight once, under its name in GGUF; a tied output layer is left out."""
    gguf = import_module("gguf")
    architecture = {name: each for each, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(
        architecture[family.architecture], model.config.num_hidden_layers
    )
    seen: set[int] = set()
    for name, tensor in cast("nn.Module", model).state_dict().items():
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        yield found, _arranged(name, tensor, family, model.config)


def _arranged(name: str, tensor: Tensor, family: Family, config: PreTrainedConfig) -> Tensor:
    layer, _, kind = name.rpartition(".")
    if kind == "weight" and layer.endswith(family.transposed or ("no layer",)):
        return tensor.t()
    if family.turns_neighbours and layer.endswith(("q_proj", "k_proj")):
        heads = config.num_attention_heads
        if layer.endswith("k_proj"):
            heads = config.num_key_value_heads
        return neighbours(tensor, heads)
    return tensor


def neighbours(tensor: Tensor, heads: int) -> Tensor:
    """Reorder rows so that those which are turned together stand side by side: [H·2·D/2, ...]."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _kind(gguf: Any, name: str, tensor: Tensor, dtype: str) -> Any:
    kinds = gguf.GGMLQuantizationType
    if tensor.dim() < 2 or name.startswith("position_embd"):
        return kinds.F32
    wanted = "Q8_0" if dtype in SMALL and name in OUTER else dtype
    block, _ = gguf.GGML_QUANT_SIZES[kinds[wanted]]
    return kinds[wanted] if tensor.shape[-1] % block == 0 else kinds.F16  # as llama.cpp does


def llama3_factors(config: PreTrainedConfig) -> np.ndarray:
    """Return by how much each frequency is slowed (Dubey et al., 2024): [D/2] float32."""
    parameters = cast("dict[str, float]", rotation(config))
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    steps = torch.arange(0, size, 2, dtype=torch.float64) / size
    lengths = 2 * math.pi * parameters["rope_theta"] ** steps  # tokens of one turn
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    share = (parameters["original_max_position_embeddings"] / lengths - low) / (high - low)
    share = share.clamp(0, 1)
    factors = 1 / ((1 - share) / parameters["factor"] + share)
    return cast("np.ndarray", factors.float().numpy())
