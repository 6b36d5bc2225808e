"""A loss that is no number stops the run before it reaches the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ontogeny.training_state import TrainingStates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.reliability.conftest import Ended, Place

NAN = ("objective=misbehaving", "objective.nan_at=5", "preflight=off")
OVERFLOW = ("optimizer.lr=1e39", "trainer.gradient_clip_val=null")  # above the largest float32


@pytest.fixture(scope="module")
def broken(
    new_place: Callable[[], Place], misbehaving: dict[str, str]
) -> dict[str, tuple[Place, Ended]]:
    """Run into a loss that is NaN at step 5, and into weights that overflow at once."""
    saving = ("trainer.max_steps=40", "trainer.save_every_steps=1")
    places = {"nan": new_place(), "overflow": new_place()}
    started = {
        "nan": places["nan"].start(*NAN, *saving, **misbehaving),
        "overflow": places["overflow"].start(*OVERFLOW, *saving),
    }
    return {name: (places[name], process.end()) for name, process in started.items()}


@pytest.mark.parametrize("name", ["nan", "overflow"])
def test_the_run_fails_with_one_line(name: str, broken: dict[str, tuple[Place, Ended]]) -> None:
    _, ended = broken[name]
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended
    assert "not finite" in ended.err
    assert "optimizer.lr" in ended.err


def test_the_step_is_named(broken: dict[str, tuple[Place, Ended]]) -> None:
    assert "at step 5;" in broken["nan"][1].err


def test_the_newest_training_state_is_of_the_step_before(
    broken: dict[str, tuple[Place, Ended]],
) -> None:
    place, _ = broken["nan"]
    assert [state.name for state in place.states] == ["step-00000004", "step-00000005"]
    assert all(finite(tensor) for tensor in tensors(place.states[-1]))
    assert [step for step, _ in place.losses] == [0, 1, 2, 3, 4]


def test_no_training_state_holds_weights_that_overflowed(
    broken: dict[str, tuple[Place, Ended]],
) -> None:
    place, _ = broken["overflow"]
    assert all(finite(tensor) for state in place.states for tensor in tensors(state))


def test_the_status_file_says_that_it_failed(broken: dict[str, tuple[Place, Ended]]) -> None:
    status = broken["nan"][0].status
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert "not finite" in str(status["reason"])


def tensors(state: Path) -> list[torch.Tensor]:
    content = TrainingStates().load_checkpoint(state)
    weights = content["state_dict"]
    assert isinstance(weights, dict)
    return list(weights.values())


def finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
