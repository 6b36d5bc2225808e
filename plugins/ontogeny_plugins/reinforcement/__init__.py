"""Reinforcement learning from rewards: PPO, RLOO and GRPO on the model's own answers."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import (
    CHECKPOINT,
    VOLATILE,
    checkpoint_of,
    require_choice,
    require_positive,
)

ENGINES = ("local", "vllm")
REFERENCES = ("auto", "frozen", "adapter_off", "none")
VALUES = ("auto", "shared", "adapter", "separate")
NO_EOS = ("replace", "subtract", "ignore")


@dataclass
class Reinforcement:
    """A checkpoint learns from what its own answers are worth (Ouyang et al., 2022)."""

    samples: int = 3  # held-out prompts that the finished model answers; 0: none
    sample_tokens: int = 64  # tokens of each of these answers, at most

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("samples", "sample_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"stage.{name} is {getattr(self, name)}; expected 0 or more")


@dataclass
class Rollouts:
    """How answers are drawn, and what every method on them has: a base of options."""

    samples: int = 1  # answers to each prompt
    max_tokens: int = 53  # of an answer
    temperature: float = 0.7  # of the draw, and of all log-probabilities
    epochs: int = 4  # passes over the answers of a step
    minibatches: int = 1  # optimiser steps in a pass
    # auto (adapter_off where there is an adapter, else frozen), frozen (a copy of the model as it
    # was given, or teacher.source), adapter_off, or none
    reference: str = "auto"
    max_kl: float | None = 2.0  # nats of a token to the reference at which training stops
    # an answer that was cut off: replace its reward by no_eos_reward, subtract that, or ignore it
    no_eos: str = "replace"
    no_eos_reward: float = -1.0  # subtract: its absolute value is taken off
    reward_scale: float = 1.0  # the sum of the rewards is multiplied by it
    reward_clip: float | None = None  # ... and then cut to ± this
    share_prompt: bool = True  # the answers to a prompt are read after one copy of it
    # where log p of the drawn tokens comes from: sampled (as they were drawn), recomputed (by the
    # pass that trains), or auto (sampled in float32, recomputed in fewer bits)
    log_probs: str = "auto"
    engine: str = "local"  # what draws the answers: local, or vllm (on GPUs)
    rollout_batch_size: int = field(default=64, metadata=VOLATILE)  # answers drawn at once
    # tokens of a forward pass that scores or trains; several answers are packed into it
    microbatch_tokens: int = field(default=4096, metadata=VOLATILE)

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        counts = ("samples", "max_tokens", "epochs", "minibatches", "rollout_batch_size")
        for name in (*counts, "microbatch_tokens"):
            require_positive(f"objective.{name}", getattr(self, name))
        require_choice("objective.reference", self.reference, REFERENCES)
        require_choice("objective.no_eos", self.no_eos, NO_EOS)
        sources = ("auto", "sampled", "recomputed")
        require_choice("objective.log_probs", self.log_probs, sources)
        require_choice("objective.engine", self.engine, ENGINES)
        if self.temperature <= 0:
            msg = f"objective.temperature is {self.temperature}; expected more than 0"
            raise ConfigError(msg)
        for name in ("max_kl", "reward_clip"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"objective.{name} is {value}; expected more than 0, or null")


@dataclass
class PPO(Rollouts):
    """Proximal policy optimisation with a KL penalty (Schulman et al., 2017; Huang et al., 2024).

    A token's reward is -β (log π - log π_ref), and that of the whole answer at its last token.
    """

    clip: float = 0.2  # ε of the ratio π/π_old
    value_clip: float | None = 0.2  # how far a value may move from that of the rollout; none: any
    value_coefficient: float = 0.1  # of the value loss beside the policy's
    gamma: float = 1.0  # discount of later rewards
    lam: float = 0.95  # λ of the advantages (GAE): 0 is TD, 1 is Monte Carlo
    kl: float = 0.05  # β: what a nat of divergence from the reference costs
    kl_target: float | None = None  # nats of an answer that β is steered to; none: β is fixed
    kl_horizon: int = 10000  # answers over which β is steered (Ziegler et al., 2019)
    whiten_advantages: bool = True  # mean 0 and variance 1 over the tokens of a step
    whiten_rewards: bool = False  # variance 1 of the tokens' rewards; their mean is kept
    # what predicts values: shared (a layer on the model's own states), adapter (the model with an
    # adapter for it), separate (a model of its own), or auto (adapter where there is one, else
    # separate)
    value: str = "auto"
    # what a separate value model begins with, such as the reward's checkpoint; none: model.source
    value_source: str | None = field(default=None, metadata=CHECKPOINT)

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        super().__post_init__()
        require_choice("objective.value", self.value, VALUES)
        _require_shares("objective", self, ("gamma", "lam"))
        _require_shares("objective", self, ("clip",))
        _require_not_negative("objective", self, ("kl", "value_coefficient"))
        require_positive("objective.kl_horizon", self.kl_horizon)
        if self.kl_target is not None and self.kl_target <= 0:
            msg = f"objective.kl_target is {self.kl_target}; expected more than 0, or null"
            raise ConfigError(msg)
        if self.kl_target is not None and self.kl == 0:
            msg = "objective.kl_target is set, but objective.kl is 0, from which nothing is steered"
            raise ConfigError(msg)
        if self.value_source is not None and self.value in {"shared", "adapter"}:
            msg = (
                f"objective.value_source is set, but objective.value is {self.value!r}, which has "
                f"no model of its own; set objective.value=separate"
            )
            raise ConfigError(msg)


@dataclass
class RLOO(Rollouts):
    """REINFORCE with the other answers to a prompt as its baseline (Ahmadian et al., 2024)."""

    samples: int = 4  # answers to each prompt: two or more
    epochs: int = 1  # passes over the answers of a step
    clip: float = 0.2  # ε of the ratio π/π_old of a whole answer; it acts after the first update
    kl: float = 0.05  # β: what a nat of divergence from the reference costs
    whiten_advantages: bool = False  # mean 0 and variance 1 over the answers of a step

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        super().__post_init__()
        _require_several(self.samples)
        _require_shares("objective", self, ("clip",))
        _require_not_negative("objective", self, ("kl",))


@dataclass
class GRPO(Rollouts):
    """Group-relative policy optimisation (Shao et al., 2024), DAPO and Dr. GRPO."""

    samples: int = 8  # answers to each prompt: two or more
    epochs: int = 1  # passes over the answers of a step
    no_eos: str = "ignore"  # as above
    clip: float = 0.2  # lowest ratio π/π_old is 1 - clip
    clip_high: float | None = None  # highest is 1 + clip_high, as 0.28 in DAPO; none: as clip
    kl: float = 0.04  # β of the k3 estimate in the loss; 0 needs no reference
    # what the losses of tokens are averaged over: grpo (an answer's tokens, then answers), dapo
    # (all tokens of a step) or dr_grpo (max_tokens, then answers: Liu et al., 2025)
    average: str = "grpo"
    scale: str = "group"  # advantages are divided by the deviation of: group, batch, or none
    importance: str = "token"  # ratios of tokens, or of a whole answer: sequence (GSPO)
    mask_cut: bool = False  # learn nothing from answers that were cut off (DAPO)

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        super().__post_init__()
        _require_several(self.samples)
        _require_shares("objective", self, ("clip",))
        _require_not_negative("objective", self, ("kl",))
        require_choice("objective.average", self.average, ("grpo", "dapo", "dr_grpo"))
        require_choice("objective.scale", self.scale, ("group", "batch", "none"))
        require_choice("objective.importance", self.importance, ("token", "sequence"))


@dataclass
class CheckpointReward:
    """What a reward model says of the conversation with its answer."""

    # made by stage=reward_modeling
    source: str = field(default="???", metadata=checkpoint_of("reward", "sequence_classification"))
    weight: float = 1.0  # in the sum of the rewards
    # render the conversation again, as text, for a model with another tokenizer or template
    as_text: bool = False
    # use the weights of the model that is trained: source is an adapter folder on model.source
    share_model: bool = False
    batch_size: int = field(default=32, metadata=VOLATILE)  # answers per forward pass

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("reward.checkpoint.batch_size", self.batch_size)
        if self.as_text and self.share_model:
            msg = "reward.checkpoint.as_text and share_model are both set: one model reads one way"
            raise ConfigError(msg)


@dataclass
class LengthReward:
    """The nearer an answer is to a number of tokens, the more: -|tokens - target| / target."""

    target: int = 50  # tokens
    weight: float = 1.0  # in the sum of the rewards

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("reward.length.target", self.target)


@dataclass
class PatternReward:
    """1 for an answer in which a regular expression is found, else 0."""

    pattern: str = "???"  # as Python's re.search takes it; case counts
    weight: float = 1.0  # in the sum of the rewards


@dataclass
class ExactReward:
    """1 for an answer that holds what the row's column says, else 0."""

    column: str = "answer"  # of the rows of the data
    # what of the answer is compared: all of it, or what the first group of this expression finds
    extract: str | None = None
    weight: float = 1.0  # in the sum of the rewards


@dataclass
class RolloutMetrics:
    """What the model's answers to held-out prompts are worth, by the rewards of the stage."""

    max_tokens: int = 53  # of an answer
    temperature: float = 0.7  # 0: the likeliest token each time
    batch_size: int = 32  # answers that are written at once
    limit: int | None = 200  # at most so many prompts; none: all
    resamples: int = 1000  # bootstrap resamples of prompts, for the 95 % intervals

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("max_tokens", "batch_size", "resamples"):
            require_positive(f"evaluator.rollouts.{name}", getattr(self, name))
        _require_not_negative("evaluator.rollouts", self, ("temperature",))


def _require_several(samples: int) -> None:
    if samples < 2:
        msg = f"objective.samples is {samples}; expected 2 or more: answers are compared"
        raise ConfigError(msg)


def _require_shares(prefix: str, options: object, names: tuple[str, ...]) -> None:
    for name in names:
        if not 0 <= getattr(options, name) <= 1:
            msg = f"{prefix}.{name} is {getattr(options, name)}; expected a number from 0 to 1"
            raise ConfigError(msg)


def _require_not_negative(prefix: str, options: object, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(options, name) < 0:
            raise ConfigError(f"{prefix}.{name} is {getattr(options, name)}; expected 0 or more")


PLACE = "ontogeny_plugins.reinforcement"


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `reinforcement`."""
    return [Component("reinforcement", Reinforcement, f"{PLACE}.stage:ReinforcementStage")]


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `ppo`, `rloo` and `grpo`."""
    return [
        Component("ppo", PPO, f"{PLACE}.ppo:PPOObjective"),
        Component("rloo", RLOO, f"{PLACE}.rloo:RLOOObjective"),
        Component("grpo", GRPO, f"{PLACE}.grpo:GRPOObjective"),
    ]


@hookimpl
def ontogeny_rewards() -> list[Component]:
    """Offer a reward model, and rewards that are plain functions."""
    return [
        Component("checkpoint", CheckpointReward, f"{PLACE}.checkpoint_reward:RewardModel"),
        Component("length", LengthReward, f"{PLACE}.rewards:Length"),
        Component("pattern", PatternReward, f"{PLACE}.rewards:Pattern"),
        Component("exact", ExactReward, f"{PLACE}.rewards:Exact"),
    ]


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `rollouts`."""
    return [Component("rollouts", RolloutMetrics, f"{PLACE}.evaluator:RolloutsEvaluator")]
