"""Weights that are set to zero and stay there: by how small they are, or by what they do."""
# O outputs, I inputs of a layer

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import lightning as L
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ontogeny.adapter import Adapter, Bundle
from ontogeny.errors import ConfigError
from ontogeny.evaluator import Metric, Metrics
from ontogeny.models import name_matches
from ontogeny.quantization import is_quantised

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from ontogeny_plugins.compression import Magnitude, Wanda


class Pruning(Adapter):
    """What both ways share; a sub-class says when to call `prune`, and by what scores."""

    keeps_function = False

    def __init__(self, config: Magnitude | Wanda) -> None:
        self.config = config
        self.name = type(config).__name__.lower()  # in the config, too
        self.layers: dict[str, nn.Module] = {}
        self._zeros: dict[nn.Parameter, Tensor] = {}
        self._metrics: Metrics = {}

    def choose(self, bundle: Bundle) -> None:
        """Note the layers to prune; raise ConfigError where there is none, or one does not fit."""
        if is_quantised(bundle.model):
            msg = (
                f"adapter.{self.name}: the weights of model.source are in few bits; prune the "
                f"model that they were made of, and quantise it afterwards"
            )
            raise ConfigError(msg)
        self.layers = prunable(bundle.model, self.config.layers)
        if not self.layers:
            known = sorted({name.rpartition(".")[2] for name in prunable(bundle.model, ())})
            msg = (
                f"adapter.{self.name}.layers is {list(self.config.layers)}, which no linear layer "
                f"in the blocks of a {type(bundle.model).__name__} is; there are {', '.join(known)}"
            )
            raise ConfigError(msg)
        for name, layer in self.layers.items():
            self._require_groups(name, layer)

    def _require_groups(self, name: str, layer: nn.Module) -> None:
        if self.config.pattern is None:
            return
        inputs, group = matrix(layer).shape[1], int(self.config.pattern.partition(":")[2])
        if inputs % group:
            msg = (
                f"adapter.{self.name}.pattern is {self.config.pattern!r}, and {name} has {inputs} "
                f"inputs, no multiple of {group}; choose another pattern, or name the layers to "
                f"prune in adapter.{self.name}.layers"
            )
            raise ConfigError(msg)

    def prune(self, layer: nn.Module, scores_OI: Tensor, *, by_row: bool) -> None:
        """Set the weights with the lowest scores to zero."""
        if self.config.pattern is not None:
            zero_OI = lowest_of_groups(scores_OI, self.config.pattern)
        else:
            zero_OI = lowest(scores_OI, self.config.sparsity, by_row=by_row)
        weight = cast("nn.Parameter", layer.weight)
        with torch.no_grad():
            matrix(layer)[zero_OI] = 0
        self._zeros[weight] = zero_OI.t() if isinstance(layer, Conv1D) else zero_OI

    def callbacks(self, bundle: Bundle, steps: int) -> Iterable[L.Callback]:
        """Return what keeps zeros where they are while others are trained."""
        del bundle, steps
        return [KeepZeros(self._zeros)]

    def settle(self, bundle: Bundle) -> Bundle:
        """Count the zeros; they are part of the model."""
        weights = [_values(layer) for layer in self.layers.values()]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        pruned = sum(weight.numel() for weight in weights)
        every = bundle.model.num_parameters()
        self._metrics = {
            "sparsity": Metric(zeros / pruned, "1"),
            "sparsity_of_model": Metric(zeros / every, "1"),
            "pruned_layers": Metric(len(weights), "layers"),
        }
        return bundle

    def metrics(self) -> Metrics:
        """Return the share of zeros, in the layers that were pruned and among all weights."""
        return self._metrics


class MagnitudeAdapter(Pruning):
    """Zeros by magnitude alone, in each layer on its own."""

    def apply(self, bundle: Bundle) -> Bundle:
        """Prune at once: nothing but the weights is needed."""
        self.choose(bundle)
        for layer in self.layers.values():
            self.prune(layer, matrix(layer).abs(), by_row=False)
        return bundle


class KeepZeros(L.Callback):
    """Takes the gradient from weights that were pruned: no step moves them, whatever it decays."""

    def __init__(self, zeros: Mapping[nn.Parameter, Tensor]) -> None:
        self.zeros = zeros

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set gradients to zero."""
        del trainer, pl_module
        for weight, zero in self.zeros.items():
            if weight.grad is not None:
                weight.grad.masked_fill_(zero.to(weight.grad.device), 0)


def prunable(model: PreTrainedModel, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Return the linear layers in the blocks by name; of these, the ones that are asked for."""
    found: dict[str, nn.Module] = {
        name: module
        for prefix, blocks in block_lists(model).items()
        for name, module in blocks.named_modules(prefix=prefix)
        if isinstance(module, nn.Linear | Conv1D)
    }
    if not patterns:
        return found
    return {
        name: module
        for name, module in found.items()
        if any(name_matches(pattern, name) for pattern in patterns)
    }


def block_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the lists of blocks by name, without those that stand inside of a block."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        linear = any(isinstance(each, nn.Linear | Conv1D) for each in module.modules())
        if isinstance(module, nn.ModuleList) and linear and not is_inside:
            found[name] = module
    return found


def matrix(layer: nn.Module) -> Tensor:
    """Return a layer's weight as [O, I], a view of it; GPT-2 stores it the other way round."""
    weight = cast("nn.Parameter", layer.weight).detach()
    return weight.t() if isinstance(layer, Conv1D) else weight


def _values(layer: nn.Module) -> Tensor:
    """Return a layer's weights as numbers; another adapter may have rounded them to few bits."""
    weight = cast("nn.Parameter", layer.weight).detach()
    return weight if type(weight) is torch.Tensor else weight.dequantize()


def lowest(scores_OI: Tensor, share: float, *, by_row: bool) -> Tensor:
    """Return where the lowest scores are, so many of each row or of the whole: bool [O, I]."""
    scores = scores_OI if by_row else scores_OI.reshape(1, -1)
    count = round(share * scores.shape[1])
    chosen = scores.argsort(dim=1, stable=True)[:, :count]
    zero = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, value=True)
    return zero.reshape(scores_OI.shape)


def lowest_of_groups(scores_OI: Tensor, pattern: str) -> Tensor:
    """Return where all but the n highest of m neighbours in a row are: bool [O, I]."""
    kept, group = map(int, pattern.split(":"))
    groups = scores_OI.reshape(-1, group)
    return lowest(groups, (group - kept) / group, by_row=True).reshape(scores_OI.shape)
