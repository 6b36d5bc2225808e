"""Which numbers a run computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ontogeny.errors import ConfigError

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def resolve_precision(precision: str, device_type: str) -> str:
    """Return `precision`, with `auto` decided by what the hardware multiplies fast.

    Raises ConfigError for what the device cannot do: Lightning would compute in something else.
    """
    if precision == "16-mixed" and device_type == "cpu":
        msg = "precision is 16-mixed, which needs a GPU; on a CPU use bf16-mixed, 32-true or auto"
        raise ConfigError(msg)
    if precision != "auto":
        return precision
    if device_type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
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
