"""Preference optimisation: the DPO family with its reference, and methods that need none."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import require_choice, require_not_negative, require_positive

LOSSES = (
    *("sigmoid", "robust", "hinge", "ipo", "sigmoid_norm", "nca", "bco", "apo_zero", "apo_down"),
    *("sppo_hard", "exo", "discopop", "aot", "aot_unpaired", "sft"),
)
DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")
REFERENCES = ("cached", "frozen", "adapter_off", "none")


@dataclass
class Preference:
    """Preference optimisation on pairs of a better and a worse answer, or on single ones."""

    samples: int = 3  # held-out prompts that the finished model answers at the end of the run
    sample_tokens: int = 60  # of each answer, at most; 0: none are written

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_not_negative("stage.samples", self.samples)
        require_not_negative("stage.sample_tokens", self.sample_tokens)


@dataclass
class DPO:
    """Direct preference optimisation and its family (Rafailov et al., 2023)."""

    beta: float = 0.1  # how closely to stay at the reference: larger is closer
    # sigmoid, robust, hinge, ipo, sigmoid_norm, nca, bco, apo_zero, apo_down, sppo_hard, exo,
    # discopop, aot, aot_unpaired or sft
    loss: str = "sigmoid"
    weight: float = 1.0  # of this loss in a mix
    mix: dict[str, float] = field(default_factory=dict)  # more losses by name, with their weights
    label_smoothing: float = 0.0  # share of labels taken as wrong: sigmoid (cDPO), robust, exo, aot
    ipo: str = "length_averaged"  # log-ratios of loss=ipo: length_averaged, or summed
    discopop_tau: float = 0.05  # temperature of the blend of loss=discopop
    divergence: str = "reverse_kl"  # from the reference: reverse_kl, forward_kl, js or alpha
    alpha: float = 0.5  # of divergence=alpha; 0 would be reverse_kl, 1 is forward_kl
    wpo: bool = False  # weight pairs by how likely the model writes them (Zhou et al., 2024)
    # weight of tokens beyond the length of the shorter answer (LD-DPO: Liu et al., 2024); none: 1
    ld_alpha: float | None = None
    # the model as it was: cached (read all pairs once), frozen (a copy in memory), adapter_off,
    # or none; it is model.source, or teacher.source where that is set
    reference: str = "cached"
    sync_every: int = 0  # steps between moves of a frozen reference to the model (TR-DPO); 0: never
    sync_share: float = 0.6  # how far it moves; 1: all the way
    share_prompt: bool = True  # both answers of a pair go on from one prompt in one row

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _require_positive("objective.beta", self.beta)
        require_choice("objective.loss", self.loss, LOSSES)
        for name in self.mix:
            require_choice("objective.mix", name, LOSSES)
        require_choice("objective.ipo", self.ipo, ("length_averaged", "summed"))
        require_choice("objective.divergence", self.divergence, DIVERGENCES)
        require_choice("objective.reference", self.reference, REFERENCES)
        _require_positive("objective.discopop_tau", self.discopop_tau)
        _require_positive("objective.alpha", self.alpha)
        require_not_negative("objective.sync_every", self.sync_every)
        self._check_noise()
        self._check_sync()
        if self.ld_alpha is not None and not 0 <= self.ld_alpha <= 1:
            raise ConfigError(f"objective.ld_alpha is {self.ld_alpha}; expected 0 to 1, or null")

    def _check_noise(self) -> None:
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                f"objective.label_smoothing is {self.label_smoothing}; expected 0 or more, and "
                f"less than 0.5: with that, labels say nothing"
            )
        if "exo" in {self.loss, *self.mix} and self.label_smoothing == 0:
            raise ConfigError(
                "objective.label_smoothing is 0, with which loss=exo is infinite; set it to 0.001"
            )

    def _check_sync(self) -> None:
        if self.sync_every and self.reference != "frozen":
            raise ConfigError(
                f"objective.sync_every is {self.sync_every}, but objective.reference is "
                f"{self.reference!r}: only a reference that is in memory on its own can follow the "
                f"model; set objective.reference=frozen"
            )
        if not 0 < self.sync_share <= 1:
            raise ConfigError(
                f"objective.sync_share is {self.sync_share}; expected more than 0, up to 1"
            )


@dataclass
class KTO:
    """Kahneman-Tversky optimisation: single answers, each good or bad (Ethayarajh et al., 2024)."""

    beta: float = 0.1  # how closely to stay at the reference: larger is closer
    desirable_weight: float = 1.0  # of good answers; weigh the rarer kind up, to 1 : 1.33 at most
    undesirable_weight: float = 1.0  # of bad ones
    # what a good answer is measured against: batch (the mean KL of mismatched pairs of the batch),
    # or zero (APO-zero on single answers, which needs no other row)
    baseline: str = "batch"
    # the model as it was: frozen (a copy in memory), adapter_off, or with baseline=zero cached
    reference: str = "frozen"
    share_prompt: bool = True  # a row's own answer and the mismatched one share a row

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            _require_positive(f"objective.{name}", getattr(self, name))
        require_choice("objective.baseline", self.baseline, ("batch", "zero"))
        require_choice("objective.reference", self.reference, ("frozen", "adapter_off", "cached"))
        if self.reference == "cached" and self.baseline == "batch":
            raise ConfigError(
                "objective.reference is 'cached', but the mismatched pairs of baseline=batch are "
                "others in every batch; set objective.reference=frozen or objective.baseline=zero"
            )


@dataclass
class ORPO:
    """Odds-ratio preference optimisation, without a reference (Hong et al., 2024)."""

    beta: float = 0.1  # weight of the odds ratio beside the chosen answer's own loss
    share_prompt: bool = True  # both answers of a pair go on from one prompt in one row

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _require_positive("objective.beta", self.beta)


@dataclass
class SimPO:
    """Simple preference optimisation on mean log-probabilities, without a reference."""

    beta: float = 2.0  # scale of the margin (Meng et al., 2024: 2.0 to 2.5)
    gamma: float = 1.0  # margin that is aimed at; half of beta in the paper
    share_prompt: bool = True  # both answers of a pair go on from one prompt in one row

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _require_positive("objective.beta", self.beta)


@dataclass
class CPO:
    """Contrastive preference optimisation, without a reference (Xu et al., 2024)."""

    beta: float = 0.1  # scale of the margin
    alpha: float = 1.0  # weight of the chosen answer's own loss
    share_prompt: bool = True  # both answers of a pair go on from one prompt in one row

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _require_positive("objective.beta", self.beta)
        if self.alpha < 0:
            raise ConfigError(f"objective.alpha is {self.alpha}; expected 0 or more")


@dataclass
class PreferenceMetrics:
    """How often a model, against its reference, finds the chosen answer likelier."""

    beta: float = 0.1  # of the implicit rewards, which are β times log-ratios
    batch_size: int = 8  # pairs per forward pass
    resamples: int = 1000  # bootstrap resamples of pairs, for the 95 % intervals
    limit: int | None = None  # at most so many pairs of a source; none: all

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _require_positive("evaluator.preference.beta", self.beta)
        for name in ("batch_size", "resamples"):
            require_positive(f"evaluator.preference.{name}", getattr(self, name))


def _require_positive(key: str, value: float) -> None:
    if value <= 0:
        raise ConfigError(f"{key} is {value}; expected more than 0")


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `preference`."""
    place = "ontogeny_plugins.preference.stage:PreferenceStage"
    return [Component("preference", config=Preference, implementation=place)]


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `dpo`, `kto`, and `orpo`, `simpo` and `cpo`, which need no reference."""
    place = "ontogeny_plugins.preference"
    return [
        Component("dpo", config=DPO, implementation=f"{place}.dpo:DPOObjective"),
        Component("kto", config=KTO, implementation=f"{place}.kto:KTOObjective"),
        Component("orpo", config=ORPO, implementation=f"{place}.reference_free:ORPOObjective"),
        Component("simpo", config=SimPO, implementation=f"{place}.reference_free:SimPOObjective"),
        Component("cpo", config=CPO, implementation=f"{place}.reference_free:CPOObjective"),
    ]


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `preference`."""
    place = "ontogeny_plugins.preference.evaluator:PreferenceEvaluator"
    return [Component("preference", config=PreferenceMetrics, implementation=place)]
