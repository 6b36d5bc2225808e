"""LoftQ: round the base to 4 bits, and let A and B start as what that loses (Li et al., 2023)."""
# I inputs, O outputs, R rank, N blocks of weights

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from ontogeny_plugins.lora.targets import Layer

if TYPE_CHECKING:
    from torch import nn

BLOCK = 64  # weights that share one scale, as in bitsandbytes
# NormalFloat4: quantiles of the normal distribution (Dettmers et al. 2023, appendix E).
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def start_loftq(model: nn.Module, adapter: str, rounds: int) -> None:
    """Round every adapted matrix, and set the adapter to the best change that undoes it."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and Layer("", module.get_base_layer()).is_linear:
            _start(module, adapter, rounds)


@torch.no_grad()
def _start(layer: Any, adapter: str, rounds: int) -> None:
    weight = layer.get_base_layer().weight
    transposed = layer.fan_in_fan_out  # GPT-2 stores [I, O]
    change = torch.zeros_like(weight)
    for _ in range(rounds):
        rounded = nf4(weight - change)
        lost_OI = (weight - rounded).T if transposed else weight - rounded
        b_OR, a_RI = factors(lost_OI, layer.r[adapter])
        change = (b_OR @ a_RI).T if transposed else b_OR @ a_RI
    root = layer.scaling[adapter] ** 0.5
    layer.lora_B[adapter].weight.copy_(b_OR / root)
    layer.lora_A[adapter].weight.copy_(a_RI / root)
    weight.copy_(rounded)


def nf4(weight: Tensor) -> Tensor:
    """Return the nearest weights that NormalFloat4 with one scale for each 64 can hold."""
    flat = weight.detach().flatten()
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK))
    blocks_NB = padded.view(-1, BLOCK)
    scale_N1 = blocks_NB.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    levels = torch.tensor(LEVELS, dtype=flat.dtype, device=flat.device)
    between = (levels[1:] + levels[:-1]) / 2
    nearest_NB = levels[torch.bucketize(blocks_NB / scale_N1, between)]
    return (nearest_NB * scale_N1).flatten()[: len(flat)].view_as(weight)


def factors(matrix_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return B and A, [O, R] and [R, I], whose product is nearest to a matrix."""
    left, values, right = torch.linalg.svd(matrix_OI, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
