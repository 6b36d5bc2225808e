"""Reward models: a number for an answer, learnt from which of two people prefer."""

from dataclasses import dataclass

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import require_positive


@dataclass
class RewardModeling:
    """A checkpoint learns to say how good an answer is (Ouyang et al., 2022)."""


@dataclass
class BradleyTerry:
    """-log σ(r_chosen - r_rejected - margin) (Bradley & Terry, 1952; Touvron et al., 2023)."""

    centre: float = 0.0  # weight of (r_chosen + r_rejected)², as 0.01: keeps rewards around 0

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.centre < 0:
            raise ConfigError(f"objective.centre is {self.centre}; expected 0 or more")


@dataclass
class RewardMetrics:
    """How often a reward model prefers the chosen answer, how sure it may be, and why it does."""

    batch_size: int = 16  # answers per forward pass
    bins: int = 10  # of probabilities, for the calibration error
    resamples: int = 1000  # bootstrap resamples of pairs, for the 95 % intervals
    limit: int | None = None  # at most so many pairs of a source; none: all

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("batch_size", "bins", "resamples"):
            require_positive(f"evaluator.reward.{name}", getattr(self, name))


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `reward_modeling`."""
    place = "ontogeny_plugins.reward_modeling.stage:RewardModelingStage"
    return [Component("reward_modeling", config=RewardModeling, implementation=place)]


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `bradley_terry`."""
    place = "ontogeny_plugins.reward_modeling.objective:BradleyTerryObjective"
    return [Component("bradley_terry", config=BradleyTerry, implementation=place)]


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `reward`."""
    place = "ontogeny_plugins.reward_modeling.evaluator:RewardEvaluator"
    return [Component("reward", config=RewardMetrics, implementation=place)]
