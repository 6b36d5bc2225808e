"""Align a model on pairs: DPO over three seeds, a reward model, and PPO against that.

    python examples/alignment/preferences.py MODEL PAIRS [PAIRS_TO_TRAIN_ON]

MODEL is a checkpoint folder of an instruction-tuned model, PAIRS a file of rows with prompt, chosen
and rejected. Of these the last 200 are held out in every stage. Raises AssertionError unless the
model prefers the chosen answers of held-out pairs (the 95 % interval of every seed above chance),
and PPO raises the mean reward of its own answers to held-out prompts while it stays within `KL`
nats of where it began.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny import compose, run

if TYPE_CHECKING:
    from ontogeny.evaluator import Metric
    from ontogeny.lifecycle import RunResult

FOLDER = Path("outputs/preferences")
HELD_OUT, PAIRS, SEEDS, KL = 200, 400, (0, 1, 2), 20.0
PROMPTS = 100  # of the held-out ones, to measure rewards on
JUDGING = ["adapter=[lora]", "data.max_length=192", "optimizer.lr=3e-4"]
MEASURED = [
    "evaluator=[rollouts]",
    f"evaluator.rollouts.limit={PROMPTS}",
    "evaluator.rollouts.max_tokens=32",
]
REINFORCEMENT = [
    "data.max_length=96",
    "objective.max_tokens=32",
    "objective.no_eos=ignore",  # of a definition of 32 tokens the end is seldom seen
    "objective.value=shared",
    "trainer.max_epochs=3",
    "trainer.log_every=1",
]
COMMON = ["adapter=[lora]", "data.max_length=192", "optimizer.lr=3e-4", "stage.samples=0"]


def split(pairs: str, count: int) -> tuple[Path, Path]:
    """Write the rows to train on and the held-out ones to files of their own."""
    opened = gzip.open if pairs.endswith(".gz") else open
    with opened(pairs, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    kept = ("prompt", "chosen", "rejected")
    rows = [{name: row[name] for name in kept} for row in rows]
    FOLDER.mkdir(parents=True, exist_ok=True)
    files = FOLDER / "train.jsonl", FOLDER / "held_out.jsonl"
    for file, part in zip(files, (rows[:count], rows[-HELD_OUT:]), strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return files


def stage(name: str, model: str, data: list[str], *more: str, seed: int = 0) -> RunResult:
    """Run a stage, with its data."""
    overrides = [f"stage={name}", f"model.source={model}", f"seed={seed}", *data, *more]
    return run(compose(overrides), FOLDER / f"{name}-{seed}", print)


def shown(metric: Metric) -> str:
    """Return a value with its interval."""
    return f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"


def main(model: str, pairs: str, count: int = PAIRS) -> None:
    """Print what each stage reaches, and check the claims."""
    train, held_out = split(pairs, count)
    data = [f"data.path={train}", f"data.validation.path={held_out}"]
    for seed in SEEDS:
        found = stage("preference", model, data, *COMMON, "data.batch_size=8", seed=seed)
        accuracy = found.metrics["preference"]["preference"]["accuracy"]
        print(f"DPO, seed {seed}: held-out accuracy {shown(accuracy)}")
        assert accuracy.low is not None
        assert accuracy.low > 0.5
    judge = stage("reward_modeling", model, data, *JUDGING)
    print(f"reward model: {shown(judge.metrics['reward_modeling']['reward']['reward_accuracy'])}")
    reward = ["reward=[checkpoint]", f"reward.checkpoint.source={judge.checkpoint}", *MEASURED]
    before = stage("evaluation", model, [f"data.path={held_out}"], *reward)
    first = before.metrics["evaluation"]["rollouts"]["reward"]
    # The price of divergence is one of rewards whose deviation is about 1.
    scale = f"objective.reward_scale={1 / deviation(first):.3g}"
    after = stage("reinforcement", model, data, *reward, *COMMON, *REINFORCEMENT, scale)
    last = after.metrics["reinforcement"]["rollouts"]["reward"]
    kl = last_logged("train/kl")
    print(f"PPO: reward {shown(first)} -> {shown(last)}, {kl:.2f} nats from the reference")
    assert first.high is not None
    assert last.low is not None
    assert last.low > first.high
    assert kl < KL


def deviation(mean: Metric) -> float:
    """Return the deviation of single rewards, by the 95 % interval of their mean."""
    assert mean.low is not None
    assert mean.high is not None
    return (mean.high - mean.low) / (2 * 1.96) * math.sqrt(PROMPTS)


def last_logged(name: str) -> float:
    """Return a number of the last update of the reinforcement stage."""
    log = FOLDER / "reinforcement-0/stages/reinforcement/logs/metrics.csv"
    names, *lines = (line.split(",") for line in log.read_text().splitlines())
    return float(lines[-1][names.index(name)])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
