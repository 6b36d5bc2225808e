"""Early stopping and the best checkpoint, by a metric of the evaluations in the loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors.torch import load_file

from ontogeny import ConfigError, compose, run
from ontogeny.evaluator import Metric
from ontogeny.lifecycle import RunResult
from ontogeny.options import Trainer
from ontogeny.selection import BestEvaluation
from ontogeny.testing import CrashAt
from ontogeny.testing.resume import Crash
from ontogeny.testing.trial import store_at

Run = Callable[..., RunResult]
METRIC = "trainer.monitor=perplexity/bits_per_byte"
# A learning rate that first helps and then ruins: the best evaluation is not the last.
RUINOUS = ["optimizer.lr=3", "scheduler=constant", "scheduler.warmup_steps=24"]


@pytest.fixture
def start(home: Path, tiny_overrides: list[str], text_file: Path) -> Run:
    def started(*overrides: str, store: str = "store") -> RunResult:
        kept = [item for item in tiny_overrides if "max_steps" not in item]
        own = [f"data.path={text_file}", "trainer.max_steps=24", "trainer.evaluate_every=2"]
        with store_at(home / store):
            config = compose([*kept, *own, *overrides])
            return run(config, home / f"run-{store}", lines.append)

    lines: list[str] = []
    started.lines = lines  # type: ignore[attr-defined]
    return started


def values(result: RunResult) -> dict[int, float]:
    file = result.folder / "stages/pretraining/logs/metrics.csv"
    header, *rows = [line.split(",") for line in file.read_text().splitlines()]
    column = header.index("evaluation/perplexity/bits_per_byte")
    return {int(row[0]): float(row[column]) for row in rows if row[column]}


def final(result: RunResult) -> float:
    return result.metrics["pretraining"]["perplexity"]["bits_per_byte"].value


def test_the_weights_of_the_best_evaluation_are_kept(start: Run) -> None:
    result = start(METRIC, "trainer.keep_best=true", *RUINOUS)
    measured = values(result)
    best = min(measured, key=lambda step: measured[step])
    assert best not in {0, 24}
    assert final(result) == pytest.approx(measured[best], rel=1e-6)
    assert any(f"the weights are those of step {best}" in line for line in start.lines)  # type: ignore[attr-defined]


def test_without_patience_left_training_ends(start: Run) -> None:
    result = start(METRIC, "trainer.patience=2", *RUINOUS)
    measured = values(result)
    best = min(measured, key=lambda step: measured[step])
    assert result.stages["pretraining"].steps == best + 4 == max(measured)
    assert result.complete


def test_other_metrics_are_better_when_they_are_higher() -> None:
    def sign(metric: str, mode: str = "auto") -> int:
        options = Trainer(monitor=metric, monitor_mode=mode, patience=1, evaluate_every=1)
        return BestEvaluation(options, Path(), print).sign

    assert sign("classification/accuracy") == 1
    assert sign("classification/expected_calibration_error") == -1
    assert sign("perplexity/bits_per_byte/general") == -1
    assert sign("perplexity/bits_per_byte", "max") == 1


def look(mode: str, *metrics: Metric) -> BestEvaluation:
    """Return what remembers the best of some evaluations of `toy/toxicity`."""
    options = Trainer(monitor="toy/toxicity", monitor_mode=mode, patience=9, evaluate_every=1)
    best = BestEvaluation(options, Path(), print)
    for metric in metrics:
        best.look(cast("Any", None), {"toy": {"toxicity": metric}})
    return best


def test_a_metric_may_say_itself_that_less_of_it_is_better() -> None:
    found = [Metric(value, "1", less_is_better=True) for value in (0.5, 0.2, 0.4)]
    assert look("auto", *found).best == 0.2
    assert look("max", *found).best == 0.5
    assert look("auto", *(Metric(metric.value, "1") for metric in found)).best == 0.5


def test_a_value_that_is_no_number_is_never_the_best_one() -> None:
    found = [Metric(value, "1") for value in (math.nan, 0.2, math.nan, 0.3)]
    assert look("auto", *found).best == 0.3


def test_a_run_that_was_cut_off_keeps_the_same_weights(start: Run) -> None:
    options = [METRIC, "trainer.keep_best=true", "trainer.patience=3", *RUINOUS]
    options += ["trainer.save_every_steps=2"]
    whole = start(*options, store="whole")
    target = f"+callbacks.crash._target_={CrashAt.__module__}.CrashAt"
    crash = [target, f"+callbacks.crash.step={whole.stages['pretraining'].steps - 1}"]
    with pytest.raises(Crash):
        start(*options, *crash, store="cut")
    again = start(*options, "resume=must", store="cut")
    assert again.checkpoint is not None
    assert whole.checkpoint is not None
    one, two = (load_file(each.checkpoint / "model.safetensors") for each in (whole, again))  # type: ignore[operator]
    assert all(one[name].equal(two[name]) for name in one)
    assert values(again) == values(whole)


def test_no_weights_of_evaluations_are_left_in_the_finished_stage(start: Run) -> None:
    result = start(METRIC, "trainer.keep_best=true")
    assert result.checkpoint is not None
    names = {file.name for file in result.checkpoint.parent.rglob("*")}
    assert "best" not in names
    assert json.loads((result.checkpoint / "lineage.json").read_text())["steps"] == 24


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.patience=2"], "trainer.patience is set, but trainer.monitor is not"),
        (["trainer.keep_best=true"], "trainer.keep_best is set, but trainer.monitor is not"),
        ([METRIC], "neither trainer.patience nor trainer.keep_best is"),
        ([METRIC, "trainer.patience=1", "trainer.evaluate_every=0"], "nothing is evaluated"),
        ([METRIC, "trainer.patience=0"], "trainer.patience is 0; expected 1 or more"),
        ([METRIC, "trainer.monitor_mode=low"], "expected one of auto, min, max"),
        (
            ["trainer.monitor=perplexity/bits_per_bite", "trainer.patience=1"],
            "which no evaluator measures (did you mean 'perplexity/bits_per_byte'?); known: ",
        ),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], words: str, start: Run) -> None:
    with pytest.raises(ConfigError) as caught:
        start(*overrides)
    assert words in str(caught.value)
