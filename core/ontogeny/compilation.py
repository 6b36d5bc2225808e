"""Whether the body of the model is compiled: when there is a compiler and it pays."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import torch
import torch._dynamo
from transformers import PreTrainedModel

from ontogeny.errors import ConfigError
from ontogeny.logit_loss import compile_kernels

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

# Compiling costs about a minute of two CPU cores and saves about a third of a step, which a CPU
# computes at some 2e11 operations a second: below this many it does not pay.
WORTHWHILE_FLOPS = 5e13
# Compiled forms of one function before torch gives up on it without a word: all models of a class
# share the function, and each has some for batches of one row, of several, and without gradients.
KERNELS = 64


def has_compiler() -> bool:
    """Say whether a C++ compiler is there, which torch.compile needs on a CPU."""
    candidates = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return any(name and shutil.which(name) for name in candidates)


def decide_compilation(option: str, parameters: int, tokens: int) -> tuple[bool, str]:
    """Return whether to compile, and why, for a run over so many tokens."""
    if option == "false":
        return False, "trainer.compile=false"
    if not has_compiler():
        if option == "true":
            msg = (
                "trainer.compile is true but no C++ compiler (c++, g++, clang++, $CXX) was found; "
                "install one or set trainer.compile=auto"
            )
            raise ConfigError(msg)
        return False, "no C++ compiler (c++, g++, clang++) was found, so torch.compile is left out"
    flops = 6 * parameters * tokens  # Kaplan et al., 2020, section 2.1
    if option == "true":
        return True, "trainer.compile=true"
    if flops < WORTHWHILE_FLOPS:
        return False, f"too short a run to earn it back ({flops:.1e} operations)"
    return True, f"a run of {flops:.1e} operations"


def compile_body(model: nn.Module, cache: Path, *, dynamic: bool = False) -> None:
    """Compile the backbone in place and the softmax of the vocabulary loss; keep the result.

    The output layer stays outside: it is fed only the positions that carry a label. `dynamic` is
    for batches of many shapes, of which each would be compiled by itself; a resumed run must meet
    the same kernels, which torch's own choice, by the shapes seen so far, would not give.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    limits = torch._dynamo.config  # noqa: SLF001
    limits.recompile_limit = max(limits.recompile_limit, KERNELS)
    # PEFT wraps the model; a plain one has no get_base_model.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if isinstance(inner, PreTrainedModel):  # what is trained beside a model may be a layer
        inner.base_model.compile(dynamic=dynamic)
    compile_kernels(True)
