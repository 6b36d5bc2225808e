"""Which numbers a run computes in."""

from __future__ import annotations

import pytest
import torch

from ontogeny.configuration import PRECISIONS
from ontogeny.precision import autocast, cpu_has_bf16, resolve_precision


def has(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags, True))


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16"])
def test_auto_is_bf16_on_a_cpu_that_multiplies_it(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, flag, "avx2")
    assert cpu_has_bf16()
    assert resolve_precision("auto", "cpu") == "bf16-mixed"


def test_auto_is_float32_on_a_cpu_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "avx2", "avx512_f")
    assert resolve_precision("auto", "cpu") == "32-true"


def test_auto_is_bf16_on_a_gpu_that_has_it_else_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert resolve_precision("auto", "cuda") == "bf16-mixed"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert resolve_precision("auto", "cuda") == "32-true"


def test_auto_is_float32_on_other_devices() -> None:
    assert resolve_precision("auto", "mps") == "32-true"


def test_what_was_asked_for_is_kept() -> None:
    assert resolve_precision("64-true", "cpu") == "64-true"


def test_float16_with_a_loss_scaler_is_not_offered() -> None:
    assert "16-mixed" not in PRECISIONS


def test_mixed_precision_multiplies_in_bfloat16() -> None:
    matrix = torch.ones(2, 2)
    with autocast("bf16-mixed", "cpu"):
        assert (matrix @ matrix).dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_true_precisions_multiply_in_what_the_weights_are(precision: str) -> None:
    matrix = torch.ones(2, 2)
    with autocast(precision, "cpu"):
        assert (matrix @ matrix).dtype == torch.float32
