"""AdaLoRA: singular values that matter little are set to zero while it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from peft import AdaLoraConfig

from ontogeny.errors import ConfigError
from ontogeny_plugins.lora.adapter import PeftAdapter
from ontogeny_plugins.lora.injection import injection_of
from ontogeny_plugins.lora.targets import Layer, require_rank

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peft import PeftConfig
    from torch import Tensor
    from transformers import PreTrainedModel

    from ontogeny.adapter import Bundle
    from ontogeny.lightning_module import TrainingModule
    from ontogeny_plugins.lora import AdaLora


class AdaLoraAdapter(PeftAdapter):
    """W + s · B E A with a diagonal E, whose entries are given to the layers that need them."""

    def __init__(self, config: AdaLora) -> None:
        super().__init__("adapter.adalora", config)
        self.config = config
        self.shares = config.warmup_share, config.final_share

    def check_layers(self, layers: list[Layer]) -> None:
        """Refuse ranks above the width of a layer."""
        require_rank(f"{self.key}.init_r", self.config.init_r, layers)

    def configuration(self, model: PreTrainedModel, targets: list[str] | None) -> PeftConfig:
        """Return an AdaLoraConfig; `callbacks` puts the number of steps in."""
        del model
        return self.configured(
            AdaLoraConfig,
            targets,
            target_r=self.config.r,
            init_r=self.config.init_r,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.dropout,
            deltaT=self.config.every,
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            orth_reg_weight=self.config.orthogonal_weight,
            total_step=1,
        )

    def callbacks(self, bundle: Bundle, steps: int) -> Iterable[L.Callback]:
        """Return the callback that moves ranks; raise ConfigError for a run too short for it."""
        first, last = (round(share * steps) for share in self.shares)
        if steps - first - last < 2:
            raise ConfigError(
                f"{self.key} takes ranks away over {steps - first - last} of {steps} steps; "
                f"expected 2 or more: raise trainer.max_steps, or lower {self.key}.warmup_share or "
                f"{self.key}.final_share"
            )
        injection = injection_of(bundle.model)
        config = cast("Any", injection.config(self.name))
        config.total_step, config.tinit, config.tfinal = steps, first, last
        return [Allocation(injection.tuner, self.name)]


class Allocation(L.Callback):
    """Adds the gradient of the orthogonal term, and moves ranks after every step."""

    def __init__(self, tuner: Any, name: str) -> None:
        self.tuner = tuner
        self.allocator = tuner.rankallocator
        self.config = tuner.peft_config[name]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the gradient of the orthogonal term to that of the mean loss, after clipping."""
        del trainer, pl_module, optimizer
        if self.config.orth_reg_weight == 0:
            return
        factors = self._factors()
        with torch.enable_grad():
            term = self.config.orth_reg_weight * orthogonality(factors)
        for factor, gradient in zip(factors, torch.autograd.grad(term, factors), strict=True):
            factor.grad = gradient if factor.grad is None else factor.grad + gradient

    def on_before_zero_grad(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note how much each weight mattered in the step just made; take ranks away when due."""
        del trainer, optimizer
        # Counted from 1: only so is a last step reached at which the ranks become final.
        step = cast("TrainingModule", pl_module).consumed + 1
        self.tuner.update_and_allocate(step)

    def state_dict(self) -> dict[str, object]:
        """Return what the next allocations depend on."""
        means = ("ipt", "exp_avg_ipt", "exp_avg_unc")
        state: dict[str, object] = {name: dict(getattr(self.allocator, name)) for name in means}
        return {**state, "rank_pattern": self.config.rank_pattern}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, on the device of the weights."""
        device = self._factors()[0].device
        for name in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            means = {key: each.to(device) for key, each in state_dict[name].items()}
            setattr(self.allocator, name, means)
        self.config.rank_pattern = state_dict["rank_pattern"]

    def _factors(self) -> list[Tensor]:
        """Return A and B of every layer, each with its ranks first."""
        named = self.tuner.model.named_parameters()
        return [each for name, each in named if ".lora_A." in name or ".lora_B." in name]


def orthogonality(factors: list[Tensor]) -> Tensor:
    """Return the mean of ‖P Pᵀ - I‖ over A and of ‖Pᵀ P - I‖ over B (Zhang et al. 2023, eq. 4)."""
    terms = []
    for factor in factors:
        product = factor @ factor.T if factor.shape[0] <= factor.shape[1] else factor.T @ factor
        terms.append(torch.linalg.matrix_norm(product - torch.eye(len(product)).to(product)))
    return torch.stack(terms).mean()
