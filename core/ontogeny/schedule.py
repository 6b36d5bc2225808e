"""The learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ontogeny.options import Schedule


def warmup_steps(schedule: Schedule, steps: int) -> int:
    """Return how many steps the linear warm-up takes."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    return round(schedule.warmup_share * steps)


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """Return the factor of the learning rate at optimiser step `step` of `steps`, from 0.

    Warm-up is linear and ends at 1 at step `warmup`; the decay ends at `min_ratio` after the last
    step. `wsd`: warm-up, stable, then 1 - sqrt decay (Hägele et al., 2024).
    """
    warmup = warmup_steps(schedule, steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if schedule.shape == "constant":
        return 1.0  # reads no min_ratio: setting one would be an error
    low = schedule.min_ratio
    if schedule.shape == "cosine":
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.shape == "linear":
        return 1 - (1 - low) * progress
    begin = max(warmup, steps - schedule.decay_share * steps)
    fallen = max(0.0, min(1.0, (step - begin) / max(1.0, steps - begin)))
    return 1 - (1 - low) * math.sqrt(fallen)
