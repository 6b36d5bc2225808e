"""Adapters `lora`, `adalora` and `peft`: few weights are trained beside a frozen model."""

import re
from dataclasses import dataclass, field
from typing import Any

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import require_positive

INITS = ("default", "gaussian", "orthogonal", "mica", "olora", "pissa", "loftq")
DATA_INITS = ("eva", "corda", "lora_ga")  # computed from the first batches of the run
_FAST_PISSA = re.compile(r"pissa_niter_\d+")


@dataclass
class Lora:
    """LoRA: W + alpha / r · B A in chosen layers (Hu et al., 2021), and what is built on it."""

    r: int = 16  # rank of the change of a layer
    alpha: float = 32.0  # scales the change by alpha / r; 32: LoRA Without Regret (2025)
    dropout: float = 0.0  # of what A is given
    # layers: [all-linear] (but the output), names, their ends or regexes; []: PEFT's own choice
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    exclude_modules: list[str] = field(default_factory=list)  # layers of these that are left out
    layers: list[int] = field(default_factory=list)  # only in these blocks, from 0; []: in all
    # how A and B start: default (B is 0), gaussian, orthogonal, mica, olora, pissa, pissa_niter_4,
    # loftq; from the first batches of the run: eva, corda, lora_ga
    init: str = "default"
    init_batches: int = 8  # how many of them, for eva, corda and lora_ga
    loftq_rounds: int = 5  # of rounding the base and making up for it, for loftq
    rslora: bool = False  # scale by alpha / √r instead (Kalajdzievski, 2023)
    dora: bool = False  # train the length of the weights apart (Liu et al., 2024)
    b_lr_ratio: float = 1.0  # learning rate of B, over that of A; LoRA+: 16 (Hayou et al., 2024)
    # modules or weights trained whole beside it; null: new ones, and heads over no vocabulary
    train_also: list[str] | None = None
    merge: bool = True  # at the end, add the change to the weights; false: keep a PEFT folder
    requantise: bool = False  # a base in few bits: round the merged weights to few bits again
    options: dict[str, Any] = field(default_factory=dict)  # more fields of PEFT's LoraConfig

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("adapter.lora.r", self.r)
        require_positive("adapter.lora.init_batches", self.init_batches)
        require_positive("adapter.lora.loftq_rounds", self.loftq_rounds)
        for name in ("alpha", "b_lr_ratio"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"adapter.lora.{name} is {getattr(self, name)}; expected over 0")
        _require_dropout("adapter.lora.dropout", self.dropout)
        if self.init not in {*INITS, *DATA_INITS} and not _FAST_PISSA.fullmatch(self.init):
            known = ", ".join([*INITS, "pissa_niter_<n>", *DATA_INITS])
            raise ConfigError(f"adapter.lora.init is {self.init!r}; expected one of {known}")
        if self.init == "loftq" and not self.merge:
            raise ConfigError(
                "adapter.lora.merge is false, but with init=loftq the base itself changes by more "
                "than an adapter can hold; set adapter.lora.merge=true"
            )


@dataclass
class AdaLora:
    """AdaLoRA: ranks move to the layers that matter most (Zhang et al., 2023)."""

    r: int = 8  # mean rank of a layer at the end
    init_r: int = 12  # rank of every layer at the start
    alpha: float = 32.0  # scales the change by alpha / rank
    dropout: float = 0.0  # of what A is given
    # layers: [all-linear] (but the output), names, their ends or regexes; []: PEFT's own choice
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    exclude_modules: list[str] = field(default_factory=list)  # layers of these that are left out
    layers: list[int] = field(default_factory=list)  # only in these blocks, from 0; []: in all
    warmup_share: float = 0.1  # of the steps, before the first rank is taken away
    final_share: float = 0.3  # of the steps, after the last one was
    every: int = 10  # steps between two allocations of ranks
    beta1: float = 0.85  # of the running mean of how much a weight matters
    beta2: float = 0.85  # of the running mean of how sure that is
    orthogonal_weight: float = 0.5  # of the term that keeps A and B orthogonal (not in train/loss)
    # modules or weights trained whole beside it; null: new ones, and heads over no vocabulary
    train_also: list[str] | None = None
    merge: bool = True  # at the end, add the change to the weights; false: keep a PEFT folder
    requantise: bool = False  # a base in few bits: round the merged weights to few bits again

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("adapter.adalora.r", self.r)
        require_positive("adapter.adalora.every", self.every)
        if self.init_r <= self.r:
            raise ConfigError(
                f"adapter.adalora.init_r is {self.init_r}; expected more than adapter.adalora.r, "
                f"{self.r}: ranks are taken away"
            )
        if self.alpha <= 0 or self.orthogonal_weight < 0:
            raise ConfigError("adapter.adalora: alpha must be over 0, orthogonal_weight 0 or more")
        _require_dropout("adapter.adalora.dropout", self.dropout)
        if not (self.warmup_share >= 0 <= self.final_share < 1 - self.warmup_share):
            raise ConfigError(
                f"adapter.adalora.warmup_share and final_share are {self.warmup_share} and "
                f"{self.final_share}; expected 0 or more, and together less than 1"
            )
        for name in ("beta1", "beta2"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"adapter.adalora.{name} must lie between 0 and 1")


@dataclass
class Peft:
    """Any other method of PEFT that changes layers: IA³, VeRA, OFT, LoHa, ... (named variants)."""

    merge: bool = True  # at the end, add the change to the weights; false: keep a PEFT folder
    method: str = "???"  # vera, ia3, oft, boft, loha, lokr, hra, shira, ...: see docs/adapters.md
    # layers: [all-linear] (but the output), names, their ends or regexes; []: PEFT's own choice
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    exclude_modules: list[str] = field(default_factory=list)  # layers of these that are left out
    layers: list[int] = field(default_factory=list)  # only in these blocks, from 0; []: in all
    # modules or weights trained whole beside it; null: new ones, and heads over no vocabulary
    train_also: list[str] | None = None
    requantise: bool = False  # a base in few bits: round the merged weights to few bits again
    options: dict[str, Any] = field(default_factory=dict)  # fields of the method's config in PEFT


def _require_dropout(key: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{key} is {value}; expected 0 <= dropout < 1")


@hookimpl
def ontogeny_adapters() -> list[Component]:
    """Offer `lora`, `adalora` and `peft`."""
    place = "ontogeny_plugins.lora"
    return [
        Component("lora", config=Lora, implementation=f"{place}.lora:LoraAdapter"),
        Component("adalora", config=AdaLora, implementation=f"{place}.adalora:AdaLoraAdapter"),
        Component("peft", config=Peft, implementation=f"{place}.method_adapter:MethodAdapter"),
    ]
