"""Weights in few bits after training, by torchao, in the form that transformers opens again."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ontogeny.adapter import Adapter, Bundle
from ontogeny.errors import ConfigError
from ontogeny.evaluator import Metric, Metrics
from ontogeny.quantization import is_quantised

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ontogeny_plugins.compression import Quantization


class QuantizationAdapter(Adapter):
    """Leaves the model alone until it is trained; then rounds the weights of its linear layers."""

    def __init__(self, config: Quantization) -> None:
        self.config = config
        # Of the outputs; stage.budget judges what it costs.
        self.settle_tolerance = 0.1 if config.dtype == "int8" else 1.0
        self._metrics: Metrics = {}

    def apply(self, bundle: Bundle) -> Bundle:
        """Change nothing yet; raise ConfigError for what could not be quantised later."""
        if find_spec("torchao") is None:
            install = "pip install 'ontogeny[quantization]'"
            msg = f"adapter.quantization needs the package torchao: {install}"
            raise ConfigError(msg)
        if is_quantised(bundle.model):
            msg = (
                "adapter.quantization: the weights of the model are in few bits already; set "
                "model.quantization=null and take a checkpoint in float32"
            )
            raise ConfigError(msg)
        if not self._layers(bundle.model):
            kind = type(bundle.model).__name__
            msg = (
                f"adapter.quantization rounds linear layers (torch.nn.Linear), and a {kind} has "
                f"none besides its output; prune it, or export it as GGUF or ONNX"
            )
            raise ConfigError(msg)
        if self.config.dtype == "int4":
            self._require_groups(bundle.model)
        return bundle

    def _require_groups(self, model: PreTrainedModel) -> None:
        size = self.config.group_size
        for name, layer in self._layers(model).items():
            if layer.in_features % size:
                msg = (
                    f"adapter.quantization.group_size is {size}, and {name} has "
                    f"{layer.in_features} inputs, no multiple of it; choose a divisor"
                )
                raise ConfigError(msg)

    def settle(self, bundle: Bundle) -> Bundle:
        """Quantise in place."""
        model = cast("Any", bundle.model)
        quantizer, layers = self._quantizer(bundle.model), self._layers(bundle.model)
        ao = import_module("torchao.quantization")
        modules = {id(layer) for layer in layers.values()}
        chosen = quantizer.quantization_config.quant_type
        ao.quantize_(model, chosen, filter_fn=lambda module, _: id(module) in modules)
        model.requires_grad_(False)
        model.hf_quantizer, model.is_quantized = quantizer, True
        model.quantization_method = quantizer.quantization_config.quant_method
        model.config.quantization_config = quantizer.quantization_config
        weights = sum(layer.in_features * layer.out_features for layer in layers.values())
        self._metrics = {
            "quantised": Metric(weights / bundle.model.num_parameters(), "1"),
            "quantised_layers": Metric(len(layers), "layers"),
        }
        return bundle

    def metrics(self) -> Metrics:
        """Return the share of weights in few bits."""
        return self._metrics

    def _layers(self, model: PreTrainedModel) -> dict[str, nn.Linear]:
        """Return the layers that transformers, too, will find quantised in the folder."""
        quantizer = self._quantizer(model)
        return {
            name: module
            for name, module in cast("nn.Module", model).named_modules()
            if isinstance(module, nn.Linear)
            and quantizer.param_needs_quantization(model, f"{name}.weight")
        }

    def _quantizer(self, model: PreTrainedModel) -> Any:
        transformers = import_module("transformers")
        module = import_module("transformers.quantizers.quantizer_torchao")
        config = transformers.TorchAoConfig(self._type())
        quantizer = module.TorchAoHfQuantizer(config, pre_quantized=False)
        quantizer.modules_to_not_convert = quantizer.get_modules_to_not_convert(
            model,
            config.modules_to_not_convert,
            model._keep_in_fp32_modules,  # noqa: SLF001
        )
        return quantizer

    def _type(self) -> object:
        ao = import_module("torchao.quantization")
        if self.config.dtype == "int8":
            return ao.Int8WeightOnlyConfig()
        # The one form of four bits that every processor computes with.
        groups = ao.PerGroup(self.config.group_size)
        four_bits = cast("Any", torch).int4
        return ao.IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=groups)
