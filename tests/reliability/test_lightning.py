"""What Lightning makes of a run, looked at from inside, and whether it goes on at every step."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from ontogeny.lifecycle import RunResult

COUNT = 5
STEPS = f"trainer.max_steps={COUNT}"


@pytest.fixture(scope="module")
def whole(train: Callable[..., RunResult]) -> bytes:
    """Return the weights of a run that went through."""
    return weights(train("whole", STEPS))


@pytest.fixture(scope="module")
def stopped_after_every_step(train: Callable[..., RunResult]) -> RunResult:
    """Run out of time at every step, with an observer, and go on until the end."""
    observed = "+callbacks.observer._target_=observing.Observer"
    limited = ("trainer.max_time=0s", "trainer.accumulate_grad_batches=2", "precision=bf16-mixed")
    for _ in range(COUNT - 1):
        assert not train("observed", STEPS, observed, *limited).complete
    return train("observed", STEPS, observed, *limited)


def log(result: RunResult) -> list[dict[str, str]]:
    file = result.folder / "stages" / "pretraining" / "logs" / "metrics.csv"
    with file.open() as lines:
        return list(csv.DictReader(lines))


def weights(result: RunResult) -> bytes:
    assert result.checkpoint is not None
    return (result.checkpoint / "model.safetensors").read_bytes()


def test_a_run_goes_on_after_every_step(train: Callable[..., RunResult], whole: bytes) -> None:
    results = [train("stopped", STEPS, "trainer.max_time=0s") for _ in range(COUNT)]
    assert [result.stages["pretraining"].steps for result in results] == [1, 2, 3, 4, 5]
    assert [result.complete for result in results] == [False] * (COUNT - 1) + [True]
    assert weights(results[-1]) == whole


def test_a_run_goes_on_from_a_state_of_its_last_step(
    train: Callable[..., RunResult], whole: bytes
) -> None:
    crash = "+callbacks.crash._target_=observing.CrashAtTheEnd"
    with pytest.raises(RuntimeError, match="crashed after the last step"):
        train("crashed", STEPS, crash, "trainer.save_every_steps=1")
    assert weights(train("crashed", STEPS, "resume=must")) == whole


def test_evaluations_are_logged_once_also_after_restarts(train: Callable[..., RunResult]) -> None:
    often = (STEPS, "evaluator=[perplexity]", "trainer.evaluate_every=2")
    whole = log(train("evaluated", *often))
    for _ in range(COUNT):
        result = train("evaluated and stopped", *often, "trainer.max_time=0s")
    assert [row["step"] for row in whole] == ["0", "0", "1", "2", "2", "3", "4", "4"]
    assert log(result) == whole


def test_to_resume_never_begins_anew(train: Callable[..., RunResult], whole: bytes) -> None:
    stopped = train("anew", STEPS, "trainer.max_time=0s")
    assert stopped.stages["pretraining"].steps == 1
    again = train("anew", STEPS, "trainer.max_time=0s", "resume=never")
    assert again.stages["pretraining"].steps == 1
    assert weights(train("anew", STEPS, "resume=never")) == whole


def test_our_count_of_steps_is_lightnings_also_after_restarts(
    stopped_after_every_step: RunResult,
) -> None:
    from observing import Observer

    assert stopped_after_every_step.complete
    assert Observer.counts == [(step, step, step) for step in range(1, COUNT + 1)]


@pytest.mark.usefixtures("stopped_after_every_step")
def test_the_model_is_in_train_mode() -> None:
    from observing import Observer

    assert set(Observer.modes) == {True}


@pytest.mark.usefixtures("stopped_after_every_step")
def test_the_weights_are_float32_where_the_products_are_bf16() -> None:
    from observing import Observer

    assert Observer.weights == {torch.float32}
    assert Observer.outputs == {torch.bfloat16}
