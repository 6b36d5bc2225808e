"""What `examples/distillation` claims: at equal steps a taught student is ahead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "examples/distillation/compare.py"
STEPS, SEEDS = 60, 2


def call(folder: Path, *command: str) -> str:
    """Run Python in a folder with a store of its own; return what it prints."""
    environment = {**os.environ, "ONTOGENY_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_taught_student_is_ahead_of_one_that_learns_from_the_data_alone(tmp_path: Path) -> None:
    quick = ("trainer.evaluate_every=0", "stage.sample_tokens=0", "trainer.progress=false")
    call(tmp_path, "-m", "ontogeny", "recipe=demo", *quick, f"hydra.run.dir={tmp_path}/demo")
    teacher = str(tmp_path / "demo/stages/pretraining/checkpoint")
    options = (f"--steps={STEPS}", f"--seeds={SEEDS}", f"--folder={tmp_path}/runs")
    table = call(tmp_path, str(SCRIPT), teacher, *options).splitlines()
    found = {
        line[:20].strip(): [float(each) for each in line[20:].split()[:SEEDS]] for line in table
    }
    assert [*found] == ["alone", "teacher in memory", "offline, top 64"]
    for way in ("teacher in memory", "offline, top 64"):
        for taught, alone in zip(found[way], found["alone"], strict=True):
            assert taught < 0.99 * alone
