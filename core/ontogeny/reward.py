"""The contract of a reward: what a model has answered becomes one number for each answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from ontogeny.errors import ConfigError, RewardError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ontogeny.companions import Companions
    from ontogeny.objective import Row
    from ontogeny.plugins import Registry


@dataclass(frozen=True)
class Completion:
    """An answer that a model has written to the prompt of a row."""

    row: Row  # with `prompt`, text or turns, and whatever else the row holds
    prompt_tokens: Sequence[int]  # ids of the tokenizer of the model that wrote
    text: str  # the answer, without special tokens
    tokens: Sequence[int]  # ids of the answer, its stop token included
    ended: bool  # False: cut off after the most tokens that were allowed


class Reward(ABC):
    """Scores answers; built as `Implementation(options)`.

    An option `weight` (float) is the reward's share in the sum of several; without it, 1.
    """

    # Columns that a row must have beside its prompt.
    columns: ClassVar[Sequence[str]] = ()

    def begin(self, companions: Companions) -> None:
        """Take what scoring needs, such as another model. Called once, before `score`."""
        del companions

    @abstractmethod
    def score(self, completions: Sequence[Completion]) -> Sequence[float]:
        """Return a number for each answer, in their order; more is better.

        Called without gradients. What an answer gets must not depend on the others.
        """


@dataclass(frozen=True)
class Scores:
    """What answers got, [N] each, from every reward by its name, and in all."""

    by_name: Mapping[str, np.ndarray]
    total_N: np.ndarray  # weighted sum


class Rewards:
    """The rewards of a stage, by name, which are added up by their weights."""

    def __init__(self, options: Mapping[str, object], registry: Registry) -> None:
        self.built = {name: cast("Reward", registry.build(each)) for name, each in options.items()}
        self.weights = {name: float(getattr(each, "weight", 1.0)) for name, each in options.items()}

    @property
    def columns(self) -> list[str]:
        """The columns that the rewards read, beside the prompt."""
        return sorted({name for reward in self.built.values() for name in reward.columns})

    def begin(self, companions: Companions) -> None:
        """Let every reward take what it needs; raise ConfigError where there is none."""
        if not self.built:
            known = ", ".join(sorted(companions.registry.components["reward"]))
            msg = f"no reward is chosen: set 'reward=[...]' to one or several of {known}"
            raise ConfigError(msg)
        for reward in self.built.values():
            reward.begin(companions)

    def score(self, completions: Sequence[Completion]) -> Scores:
        """Return what answers get; raise RewardError for a number that is none."""
        by_name = {
            name: self.checked(f"reward.{name}", reward.score(completions), completions)
            for name, reward in self.built.items()
        }
        total_N = np.zeros(len(completions))
        for name, scores_N in by_name.items():
            total_N += self.weights[name] * scores_N
        return Scores(by_name, total_N)

    @staticmethod
    def checked(who: str, scores: Sequence[float], completions: Sequence[Completion]) -> np.ndarray:
        """Return scores as an array, [N]; raise RewardError for one that is no finite number."""
        scores_N = np.asarray(scores, np.float64)
        if scores_N.shape != (len(completions),):
            msg = (
                f"{who} returned an array of shape {scores_N.shape} for "
                f"{len(completions)} answers; expected one number for each"
            )
            raise RewardError(msg)
        bad = np.flatnonzero(~np.isfinite(scores_N))
        if len(bad):
            first = completions[int(bad[0])]
            msg = (
                f"{who} is {scores_N[bad[0]]} for {len(bad)} of {len(completions)} "
                f"answers, such as {first.text[:80]!r} to {_shown(first.row)!r}; a reward must be "
                f"a finite number for any answer, the empty one too"
            )
            raise RewardError(msg)
        return scores_N


def _shown(row: Row) -> str:
    prompt = row.get("prompt", "")
    return str(prompt)[:80]
