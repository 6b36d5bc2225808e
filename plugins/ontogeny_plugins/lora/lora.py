"""LoRA with its variants: DoRA, rsLoRA, LoRA+, PiSSA, OLoRA, LoftQ, EVA, CorDA, LoRA-GA, MiCA."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from peft import EvaConfig, LoraConfig
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from transformers.pytorch_utils import Conv1D

from ontogeny.adapter import ParameterGroup
from ontogeny.errors import ConfigError
from ontogeny.preflight import Proof
from ontogeny.quantization import is_quantised
from ontogeny_plugins.lora import DATA_INITS
from ontogeny_plugins.lora.adapter import PeftAdapter
from ontogeny_plugins.lora.data_init import corda, eva, lora_ga, require_tokens
from ontogeny_plugins.lora.injection import adapter_weights, injection_of, take_out
from ontogeny_plugins.lora.loftq import start_loftq
from ontogeny_plugins.lora.methods import check_options
from ontogeny_plugins.lora.targets import Layer, require_rank

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peft import PeftConfig
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Batch
    from ontogeny_plugins.lora import Lora

# Fields of LoraConfig that have options of their own.
TAKEN = {
    "r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "init_lora_weights": "init",
    "use_rslora": "rslora",
    "use_dora": "dora",
    "loftq_config": "loftq_rounds",
}
ROUNDING = 1e-4  # relative: W - BA + BA is not W to the last bit
# These take A and B out of the weights: the model computes the same, its own weights do not.
OUT_OF_THE_BASE = ("pissa", "olora", "corda", "lora_ga")
SUBCONFIGS: dict[str, tuple[str, Any]] = {
    "eva": ("eva_config", EvaConfig),
    "corda": ("corda_config", CordaConfig),
    "lora_ga": ("lora_ga_config", LoraGAConfig),
}


class LoraAdapter(PeftAdapter):
    """W + s · B A, with B = 0 to begin with unless another init is chosen."""

    def __init__(self, config: Lora) -> None:
        super().__init__("adapter.lora", config)
        self.config = config
        self.init = config.init
        self.b_lr_ratio = config.b_lr_ratio
        self.init_batches = config.init_batches if self.init in DATA_INITS else 0
        self.kind = self.init.partition("_niter_")[0]
        self.leaves_base = self.kind not in {*OUT_OF_THE_BASE, "loftq"}
        self.keeps_function = self.kind != "loftq"
        self.tolerance = 0.0 if self.leaves_base and self.kind != "orthogonal" else ROUNDING
        self._waits = self.kind in {"corda", "lora_ga"}  # starts as usual until there is data
        self._start: dict[str, Tensor] = {}
        self.start_error: float | None = None
        self.loftq_rounds = config.loftq_rounds if self.kind == "loftq" else 0
        check_options(self.key, LoraConfig, config.options, TAKEN)

    def check_layers(self, layers: list[Layer]) -> None:
        """Refuse ranks above the width of a layer."""
        require_rank(f"{self.key}.r", self.config.r, layers)

    def configuration(self, model: PreTrainedModel, targets: list[str] | None) -> PeftConfig:
        """Return a LoraConfig."""
        self._check_base(model)
        init = "default" if self._waits or self.kind == "loftq" else self.init
        options = dict(self.config.options)
        mine, make = SUBCONFIGS.get(init, ("", dict))
        for name, _ in SUBCONFIGS.values():
            given = options.pop(name, {})
            if name == mine:
                options[name] = self._subconfig(name, make, given)
        alpha = self.config.alpha
        return self.configured(
            LoraConfig,
            targets,
            r=self.config.r,
            lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
            lora_dropout=self.config.dropout,
            use_rslora=self.config.rslora,
            use_dora=self.config.dora,
            init_lora_weights=True if init == "default" else init,
            **options,
        )

    def _check_base(self, model: PreTrainedModel) -> None:
        if is_quantised(model) and not self.leaves_base:
            raise ConfigError(
                f"{self.key}.init is {self.init!r}, which changes the weights of the base, and "
                f"those are in few bits: leave model.quantization null, or take init=default"
            )
        if self.kind == "olora" and any(isinstance(each.module, Conv1D) for each in self.layers):
            raise ConfigError(
                f"{self.key}.init is 'olora', which PEFT cannot do with the transposed layers of "
                f"{type(model).__name__}: take pissa"
            )

    def _subconfig(self, name: str, make: Any, given: dict[str, object]) -> object:
        """Return PEFT's own object for the options of an init."""
        try:
            return make(**given)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.key}.options.{name}: {error}") from error

    def put_in(self, model: PreTrainedModel, targets: list[str] | None) -> None:
        """Inject LoRA; where that changes the weights, look how far their sum is from them."""
        before = self._first_weights()
        super().put_in(model, targets)
        if self.kind == "loftq":
            start_loftq(model, self.name, self.loftq_rounds)
        if before is None or self._waits:
            return
        first = model.get_submodule(self.layers[0].name)
        after = self._first_weights() + first.get_delta_weight(self.name)  # type: ignore[operator]
        self.start_error = float((after.detach() - before).norm() / before.norm())
        if not self.merge:
            found = adapter_weights(injection_of(model), self.name)
            self._start = {
                name: each
                for name, each in found.items()
                if ".lora_A." in name or ".lora_B." in name
            }

    def _first_weights(self) -> Tensor | None:
        if self.leaves_base or not self.layers:
            return None
        return cast("Tensor", self.layers[0].module.weight).detach().clone()

    def initialise(self, bundle: Bundle, batches: Iterable[Batch]) -> None:
        """Start from the first batches of the run: eva, corda and lora_ga."""
        if self.kind not in DATA_INITS:
            return
        model, key = bundle.model, f"{self.key}.init"
        chosen = list(islice(batches, self.init_batches))
        require_tokens(f"{key}={self.kind}", chosen)
        injection = injection_of(model)
        if self.kind == "eva":
            eva(key, injection, self.name, chosen)
            return
        if len(injection.names) > 1:
            raise ConfigError(f"{key}={self.kind} cannot start beside another adapter")
        targets = sorted(cast("Any", injection.config(self.name)).target_modules)
        take_out(model)
        self._waits = False
        prepare = corda if self.kind == "corda" else lora_ga
        prepare(key, model, self.configuration(model, targets), chosen)
        self.put_in(model, targets)

    def start(self) -> dict[str, Tensor]:
        """Return A and B as they were taken out of the base."""
        return self._start

    def parameter_groups(self, bundle: Bundle) -> Iterable[ParameterGroup]:
        """Let B learn faster than A, as LoRA+ does."""
        yield from super().parameter_groups(bundle)
        if self.b_lr_ratio != 1.0:
            named = cast("nn.Module", bundle.model).named_parameters()
            of_b = [each for name, each in named if each.requires_grad and _is_b(name)]
            yield ParameterGroup(of_b, lr_ratio=self.b_lr_ratio)

    def proofs(self, bundle: Bundle, batch: Batch) -> Iterable[Proof]:
        """Add how far the weights are from the base's where they were changed to begin with."""
        yield from super().proofs(bundle, batch)
        if self.start_error is not None:
            holds = self.start_error <= self.tolerance if self.keeps_function else None
            evidence = (
                f"weights and change of {self.layers[0].name} add up to it but for "
                f"{self.start_error:.1e}"
            )
            yield Proof(f"{self.key} starts as its base", holds, evidence)


def _is_b(name: str) -> bool:
    return ".lora_B." in name or ".lora_embedding_B." in name
