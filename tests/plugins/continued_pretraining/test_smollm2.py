"""A real model and a real domain, where they are at hand: examples/adaptation/smollm2.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ontogeny import compose, run

GENERAL = "pkg://ontogeny_plugins.demo/data/general_test.jsonl.gz"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_low_rank_adaptation_of_a_real_model_learns_more_than_it_forgets(home: Path) -> None:
    place = os.environ.get("ONTOGENY_SMOLLM2")
    if place is None:
        pytest.skip("set ONTOGENY_SMOLLM2 to the folder that examples/adaptation/smollm2.py made")
    overrides = [
        "stage=continued_pretraining",
        f"model.source={place}/smollm2",
        "adapter=[lora]",
        "precision=bf16-mixed",
        f"data.sources.domain.path={place}/ontology.jsonl",
        "data.sources.domain.weight=1",
        f"data.sources.general.path={GENERAL}",
        "data.sources.general.weight=0",
        "data.sources.general.validation=" + GENERAL,
        "data.validation.limit=40",
        "data.max_length=256",
        "data.batch_size=4",
        "trainer.max_steps=60",
        "trainer.compile=false",
        "optimizer.lr=1e-3",
        "stage.sample_tokens=0",
    ]
    result = run(compose(overrides), home / "run")
    changes = result.metrics["continued_pretraining"]["forgetting"]
    fall = (
        changes["bits_per_byte_before/domain"].value - changes["bits_per_byte_after/domain"].value
    )
    rise = (
        changes["bits_per_byte_after/general"].value - changes["bits_per_byte_before/general"].value
    )
    assert fall > 0.1
    assert rise < fall
