"""Weights in few bits: adapters are trained on them, they themselves never are."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig, TorchAoConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PACKAGES = {
    "nf4": "bitsandbytes",
    "fp4": "bitsandbytes",
    "int8": "bitsandbytes",
    "torchao_int8": "torchao",
}
_HOOKS = "_quantised_state_hooks"  # attribute of a model: what `freeze` has put in


def quantization_config(name: str, config: PreTrainedConfig) -> QuantizationConfigMixin:
    """Return how transformers shall quantise while it loads.

    `config` is that of the checkpoint. Raises ConfigError if it is quantised already, or if the
    package is not installed.
    """
    package = PACKAGES[name]
    if getattr(config, "quantization_config", None) is not None:
        msg = (
            f"model.quantization is {name!r}, but the weights of model.source are quantised "
            f"already: leave model.quantization null"
        )
        raise ConfigError(msg)
    if find_spec(package) is None:
        msg = (
            f"model.quantization is {name!r}, which needs the package {package}: install it "
            f"(pip install {package}), or leave model.quantization null"
        )
        raise ConfigError(msg)
    return _torchao_int8() if name == "torchao_int8" else _bitsandbytes(name)


def _bitsandbytes(name: str) -> QuantizationConfigMixin:
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # Dettmers et al. 2022
    # Dettmers et al. 2023, QLoRA: double quantisation, bfloat16 products; a CPU gains nothing by it
    products = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=name,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=products,
    )


def _torchao_int8() -> QuantizationConfigMixin:
    torchao = import_module("torchao.quantization")  # an optional package
    return TorchAoConfig(torchao.Int8WeightOnlyConfig())


def is_quantised(model: nn.Module) -> bool:
    """Say whether weights of a model are held in few bits."""
    return bool(getattr(model, "is_quantized", False))


def freeze(model: PreTrainedModel) -> None:
    """Take a quantised model out of training, and its weights in few bits out of state_dict.

    They never change and are loaded again from the checkpoint; the forms in which packages keep
    them fit neither into a training state nor back into a module.
    """
    cast("nn.Module", model).requires_grad_(False)
    handles: list[Any] = []
    for module in model.modules():
        if _holds_few_bits(module):
            handles += _leave_out(module)
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Else bitsandbytes packs the weights in the first evaluation on a CPU, and the product
            # with packed ones has no gradient: adapters of earlier layers would learn nothing.
            cast("Any", module).support_avx512bf16_for_cpu = False
    vars(model)[_HOOKS] = handles


def release(model: PreTrainedModel) -> None:
    """Let state_dict return the weights in few bits again, to save them in a checkpoint."""
    for handle in vars(model).pop(_HOOKS, []):
        handle.remove()


def dequantise(model: PreTrainedModel) -> None:
    """Turn the weights into float32, in place: what they stand for stays the same."""
    release(model)
    if str(getattr(model, "quantization_method", "")).lower().endswith("torchao"):
        _dequantise_torchao(model)
    else:
        cast("Any", model).dequantize()


def _dequantise_torchao(model: PreTrainedModel) -> None:
    """Do what transformers' `dequantize` does for other packages."""
    for module in model.modules():
        if _holds_few_bits(module):
            weight = cast("Any", module.weight).dequantize()
            module.weight = nn.Parameter(weight, requires_grad=False)
    del model.hf_quantizer, model.config.quantization_config, model.quantization_method
    cast("Any", model).is_quantized = False


def _holds_few_bits(module: nn.Module) -> bool:
    kinds = (type(module), type(getattr(module, "weight", None)))
    return any(kind.__module__.partition(".")[0] in {"bitsandbytes", "torchao"} for kind in kinds)


def _leave_out(module: nn.Module) -> list[object]:
    """Make a module save nothing, and miss nothing when a state is loaded."""
    prefixes: list[str] = []

    def forget(_: nn.Module, state: dict[str, object], prefix: str, __: object) -> None:
        for key in [key for key in state if key.startswith(prefix)]:
            del state[key]

    def note(_: nn.Module, __: object, prefix: str, *___: object) -> None:
        prefixes[:] = [prefix]

    def excuse(_: nn.Module, found: Any) -> None:
        found.missing_keys[:] = [key for key in found.missing_keys if not _in(key, prefixes)]

    return [
        module.register_state_dict_post_hook(forget),
        module.register_load_state_dict_pre_hook(note),
        module.register_load_state_dict_post_hook(excuse),
    ]


def _in(key: str, prefixes: list[str]) -> bool:
    return any(key.startswith(prefix) for prefix in prefixes)
