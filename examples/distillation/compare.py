"""Compare a student that learns from the demo's model with the same student on the data alone.

    ontogeny recipe=demo hydra.run.dir=demo
    python examples/distillation/compare.py demo/stages/pretraining/checkpoint

Every student sees the same rows in the same order for as many steps; 3 seeds each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

STUDENT = [
    "model=llama_tiny",
    "model.config.num_hidden_layers=2",
    "model.config.hidden_size=64",
    "model.config.intermediate_size=176",
    "data=example",
    "data.max_length=256",
    "optimizer.lr=3e-3",
    "stage.sample_tokens=0",
    "trainer.progress=false",
]


def runs(teacher: str) -> dict[str, list[str]]:
    """Return the overrides of each way to train the student."""
    taught = ["stage=distillation", f"teacher.source={teacher}"]
    return {
        "alone": ["stage=pretraining", f"tokenizer.source={teacher}"],
        "teacher in memory": taught,
        "offline, top 64": [*taught, "objective.teacher=offline"],
    }


def bits_per_byte(folder: Path, overrides: list[str]) -> float:
    """Run a stage, unless it was run here before; return its bits per byte on held-out rows."""
    file = folder / "metrics.json"
    if not file.exists():
        command = [sys.executable, "-m", "ontogeny", *overrides, f"hydra.run.dir={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (evaluators,) = json.loads(file.read_text()).values()
    return float(evaluators["perplexity"]["bits_per_byte"]["value"])


def main() -> None:
    """Train, and print a table of bits per byte."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", help="checkpoint folder of the teacher")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("outputs/distillation"))
    options = parser.parse_args()
    teacher = str(Path(options.teacher).resolve())
    for name, overrides in runs(teacher).items():
        found = []
        for seed in range(options.seeds):
            run = [*overrides, *STUDENT, f"trainer.max_steps={options.steps}", f"seed={seed}"]
            place = options.folder / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
            found.append(bits_per_byte(place.resolve(), run))
        seeds = "  ".join(f"{value:.3f}" for value in found)
        print(f"{name:20} {seeds}   mean {mean(found):.3f}", flush=True)


if __name__ == "__main__":
    main()
