"""Distillation against TRL's GKDTrainer, in one run: the same models, rows, loss and precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("distillation_throughput.py")
STEPS, ROUNDS = 8, 2


@pytest.mark.benchmark
@pytest.mark.timeout(3000)
def test_distillation_is_twice_as_fast_as_trl_with_half_its_memory() -> None:
    figures: dict[str, list[dict[str, float]]] = {"trl": [], "ours": []}
    for _ in range(ROUNDS):  # taken in turns: a machine drifts
        for way, measured in figures.items():
            measured.append(_measure(way))
    best = {way: max(measured, key=_speed) for way, measured in figures.items()}
    for way, found in best.items():
        print({"way": way, **{name: round(value, 1) for name, value in found.items()}})
    assert _speed(best["ours"]) >= 2 * _speed(best["trl"])
    assert best["ours"]["peak_mb"] <= 0.5 * best["trl"]["peak_mb"]


def _measure(way: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, SCRIPT, way, str(STEPS)], capture_output=True, text=True, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _speed(figures: dict[str, float]) -> float:
    return figures["tokens_per_second"]
