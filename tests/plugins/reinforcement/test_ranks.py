"""Two processes that share the prompts of a step learn what one does."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.plugins.reinforcement.conftest import quick


def logged(ending_speaker: Path, prompts: Path, folder: Path, *more: str) -> list[dict[str, str]]:
    """Train in a process of its own; return the log. Draws are all but greedy, and so the same."""
    overrides = quick(ending_speaker, prompts, "reward=[length]", "objective.temperature=0.02")
    overrides += ["objective.max_kl=null", "evaluator=[]", "optimizer.lr=1e-4", "preflight=off"]
    overrides = [item for item in overrides if not item.startswith("evaluator.rollouts")]
    command = [sys.executable, "-m", "ontogeny", *overrides, f"hydra.run.dir={folder}", *more]
    environment = {**os.environ, "ONTOGENY_HOME": str(folder / "home")}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    with (folder / "stages/reinforcement/logs/metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_two_ranks_take_the_updates_of_one(
    ending_speaker: Path, prompts: Path, tmp_path: Path
) -> None:
    ranks = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4")
    one = logged(ending_speaker, prompts, tmp_path / "one", "trainer.devices=1")
    two = logged(ending_speaker, prompts, tmp_path / "two", *ranks)
    assert len(one) == len(two) == 3 * 4
    for alone, together in zip(one[:4], two[:4], strict=True):  # later draws may differ
        for name in ("train/loss", "train/reward", "train/value_loss", "train/gradient_norm"):
            assert float(alone[name]) == pytest.approx(float(together[name]), rel=2e-3, abs=1e-5)
