"""Speed and memory against a hand-tuned loop and transformers.Trainer, in one run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("throughput.py")
STEPS, ROUNDS = 14, 3


@pytest.mark.benchmark
@pytest.mark.timeout(3000)
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_training_is_as_fast_as_a_hand_tuned_loop_and_faster_than_transformers() -> None:
    best = {way: _best(way) for way in ("loop", "ours", "transformers")}
    for _ in range(ROUNDS - 1):  # taken in turns: a machine drifts
        for way in tuple(best):
            best[way] = min(best[way], _best(way), key=_milliseconds)
    for way, figures in best.items():
        print({"way": way, **{name: round(value, 1) for name, value in figures.items()}})
    ours, loop, trainer = (best[way] for way in ("ours", "loop", "transformers"))
    assert ours["tokens_per_second"] >= 0.97 * loop["tokens_per_second"]
    assert ours["tokens_per_second"] >= 1.3 * trainer["tokens_per_second"]
    assert ours["peak_mb"] <= 0.6 * trainer["peak_mb"]


def _best(way: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, SCRIPT, way, str(STEPS)], capture_output=True, text=True, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _milliseconds(figures: dict[str, float]) -> float:
    return figures["ms"]
