"""DPO against TRL's DPOTrainer, in one run: the same model, pairs, precision and optimiser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("dpo_throughput.py")
STEPS, ROUNDS = 9, 2


@pytest.mark.benchmark
@pytest.mark.timeout(3000)
def test_dpo_is_three_times_as_fast_as_trl_and_four_with_a_cached_reference() -> None:
    figures: dict[str, list[dict[str, float]]] = {"trl": [], "ours": [], "ours_cached": []}
    for _ in range(ROUNDS):  # taken in turns: a machine drifts
        for way, measured in figures.items():
            measured.append(_measure(way))
    best = {way: max(measured, key=_speed) for way, measured in figures.items()}
    for way, found in best.items():
        print({"way": way, **{name: round(value, 1) for name, value in found.items()}})
    speeds = {way: _speed(found) for way, found in best.items()}
    assert speeds["ours"] >= 3 * speeds["trl"]
    assert speeds["ours_cached"] >= 4 * speeds["trl"]
    for way in ("ours", "ours_cached"):
        assert best[way]["peak_mb"] <= 0.5 * best["trl"]["peak_mb"]


def _measure(way: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, SCRIPT, way, str(STEPS)], capture_output=True, text=True, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _speed(figures: dict[str, float]) -> float:
    return figures["tokens_per_second"]
