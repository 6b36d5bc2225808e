"""Objectives that need a teacher of their own keep the promises of all objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.plugins.distillation.conftest import STUDENT, saved, small_bert

from ontogeny.testing import check_objective

if TYPE_CHECKING:
    from pathlib import Path

BERT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
QUICK = ["stage.sample_tokens=0"]


def test_masked_distillation_keeps_its_contract(tmp_path: Path, home: Path) -> None:
    teacher = saved(tmp_path / "teacher", small_bert(1))
    student = ["model=bert_tiny", *(f"model.config.{name}={n}" for name, n in BERT.items())]
    student += ["model.config.num_attention_heads=2", f"teacher.source={teacher}"]
    check_objective("masked_distillation", stage="distillation_mlm", overrides=[*QUICK, *student])


def test_cross_tokenizer_keeps_its_contract(teacher: Path) -> None:
    overrides = [*QUICK, *STUDENT, f"teacher.source={teacher}"]
    check_objective("cross_tokenizer", stage="distillation_cross_tokenizer", overrides=overrides)
