"""Proofs of an adapter: it starts as its base, and merges to what it computes."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ontogeny.preflight import Proof
from ontogeny_plugins.lora.forward import computed, token_batches
from ontogeny_plugins.lora.targets import Layer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

    from ontogeny.objective import Batch

ROWS = 4  # of random numbers that a layer is tried on
MOVED = 0.05  # how far the weights of the adapter are moved for that: zero would prove nothing


def start_proof(
    model: PreTrainedModel,
    batch: Batch,
    silent: AbstractContextManager[None],
    name: str,
    promise: float | None,
) -> Proof:
    """Compare what the model computes with the adapter switched off.

    Promised is a difference relative to the largest number.
    """
    parts = list(token_batches(batch))
    if not parts:
        return Proof(name, None, "the batch holds no input_ids")
    with torch.no_grad():
        acting = [each for part in parts for each in computed(model, part)]
        with silent:
            base = [each for part in parts for each in computed(model, part)]
    pairs = zip(acting, base, strict=True)
    moved = max(_relative(left.float(), right.float()) for left, right in pairs)
    evidence = f"outputs move by {moved:.1e}, relative"
    return Proof(name, None if promise is None else moved <= promise, evidence)


def merge_error(model: nn.Module, adapter: str, acting: Sequence[str]) -> float | None:
    """Return how far merging moves the output of one layer of each kind, relative.

    The layers are those of `adapter`; all that act on them are merged, in copies, with weights that
    were moved as training would. None if no layer is of a kind that can be fed. Raises what PEFT
    raises for what it cannot merge.
    """
    errors = [_layer_error(layer, acting) for layer in _one_of_each_kind(model, adapter)]
    known = [error for error in errors if error is not None]
    return max(known, default=None)


def _one_of_each_kind(model: nn.Module, adapter: str) -> list[Any]:
    kinds: dict[object, Any] = {}
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and adapter in module._all_available_adapter_names():  # noqa: SLF001  no public way
            base = module.get_base_layer()
            kinds.setdefault((type(base), getattr(base, "bias", None) is None), module)
    return list(kinds.values())


def _layer_error(layer: Any, acting: Sequence[str]) -> float | None:
    tried = copy.deepcopy(layer).eval()
    device = next(tried.parameters()).device
    generator = torch.Generator().manual_seed(0)
    fed = _input(tried.get_base_layer(), generator)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for parameter in tried.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(MOVED * noise.to(parameter))
        before = None if fed is None else tried(fed.to(device))
        tried.merge(safe_merge=True, adapter_names=list(acting))
        after = None if fed is None else tried(fed.to(device))
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return None
    return _relative(after, before)


def _relative(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max().clamp(min=1e-12))


def _input(base: nn.Module, generator: torch.Generator) -> Tensor | None:
    """Return random rows that a layer takes, or None where it is not known what it takes."""
    weight = getattr(base, "weight", None)
    if isinstance(base, nn.Embedding):
        return torch.randint(base.num_embeddings, (ROWS,), generator=generator)
    if Layer("", base).is_linear:
        width = base.in_features if isinstance(base, nn.Linear) else len(base.weight)  # type: ignore[arg-type]
        return torch.randn(ROWS, int(width), generator=generator)
    if isinstance(weight, Tensor) and weight.dim() == 1:
        return torch.randn(ROWS, len(weight), generator=generator)
    return None
