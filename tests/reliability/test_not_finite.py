"""A loss that is no number stops the run before it reaches the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ontogeny.errors import NonFiniteError
from ontogeny.training_state import TrainingStates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.reliability.conftest import Ended, Place

    from ontogeny.lifecycle import RunResult

NAN = ("objective=misbehaving", "objective.nan_at=5", "preflight=off")
SAVING = ("trainer.max_steps=40", "trainer.save_every_steps=1")
# Above the largest float32: the gradients are finite, the weights after the step are not.
OVERFLOW = ("optimizer.lr=1e39", "trainer.gradient_clip_val=null", "scheduler.warmup_steps=0")


@pytest.fixture(scope="module")
def broken(new_place: Callable[[], Place], misbehaving: dict[str, str]) -> tuple[Place, Ended]:
    """Run into a loss that is NaN at step 5."""
    place = new_place()
    return place, place.run(*NAN, *SAVING, **misbehaving)


def test_the_run_fails_with_one_line_that_names_the_step(broken: tuple[Place, Ended]) -> None:
    _, ended = broken
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended
    assert "the loss or a gradient is not finite at step 5;" in ended.err
    assert "Lower optimizer.lr" in ended.err


def test_the_newest_training_state_is_of_the_step_before(broken: tuple[Place, Ended]) -> None:
    place, _ = broken
    assert [state.name for state in place.states] == ["step-00000004", "step-00000005"]
    assert all(finite(tensor) for tensor in tensors(place.states[-1]))
    assert [step for step, _ in place.losses] == [0, 1, 2, 3, 4]


def test_the_status_file_says_that_it_failed(broken: tuple[Place, Ended]) -> None:
    status = broken[0].status
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert "not finite" in str(status["reason"])


def test_weights_that_overflow_are_not_saved(train: Callable[..., RunResult]) -> None:
    with pytest.raises(NonFiniteError, match="weights are not finite after step 0; lower optim"):
        train("overflow", *OVERFLOW, *SAVING)
    with pytest.raises(NonFiniteError):  # also where only the last step is saved
        train("overflow at the end", *OVERFLOW, "trainer.max_steps=1")


def tensors(state: Path) -> list[torch.Tensor]:
    content = TrainingStates().load_checkpoint(state)
    weights = content["state_dict"]
    assert isinstance(weights, dict)
    return list(weights.values())


def finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
