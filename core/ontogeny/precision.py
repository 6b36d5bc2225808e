"""Which numbers a run computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

_AUTOCAST = {"bf16-mixed": torch.bfloat16}


def resolve_precision(precision: str, device_type: str) -> str:
    """Return `precision`, with `auto` decided by what the hardware multiplies fast.

    float16 is not offered: its gradients carry the factor of a loss scaler, which our division by
    the weight, the clipping and the guard against NaN would take for part of them.
    """
    if precision != "auto":
        return precision
    if device_type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if device_type == "cpu" and cpu_has_bf16() else "32-true"


def cpu_has_bf16() -> bool:
    """Say whether this CPU has bf16 matrix products in hardware (AMX or AVX512-BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def autocast(precision: str, device_type: str) -> AbstractContextManager[object]:
    """Return the context in which forward passes of this precision run."""
    dtype = _AUTOCAST.get(precision)
    if dtype is None:
        return nullcontext()
    return torch.autocast(device_type, dtype=dtype)
