"""Adapters of PEFT inside a model that stays what it is: put in, switched off, merged."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import peft
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

from ontogeny.adapter_folder import PREFIX, WEIGHTS
from ontogeny.errors import CheckpointError, ConfigError
from ontogeny.quantization import dequantise, is_quantised, release

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedModel

# Kept beside the model's weights, not among its modules: the handle holds the model in turn.
_PLACE = "_injected_adapters"
FIRST = "default"  # PEFT writes the adapter of this name into the folder itself
HARMLESS = (
    "`is_gradient_checkpointing` is deprecated",  # PEFT asks by transformers' former name
    "fan_in_fan_out is set to",  # it is corrected by PEFT right there
    "Setting boft_n_butterfly_factor to 1",
    "Failed to load the CUDA extension",  # of BOFT: PyTorch's own operations do the same
    "Unsupported layer type '<class '.*Norm",  # ln_tuning copies the layer, whatever it is
    "Sparse invariant checks are implicitly disabled",
    "lora with eva initialization used with low_cpu_mem_usage=False",
    "You are trying to modify a model with PEFT for a second time",  # names keep them apart
    "Detected that the base layer has no bias term",  # merging is tried before the run
    ".*merging LoRA weights won't be possible",  # the same
    "LoRA adapter added to ConvNd layer with groups > 1. Merging is not supported",  # the same
    "Merge lora module to .*-bit linear may get different generations",  # asked for: requantise
    "Full backward hook is firing when gradients are computed",  # of LoRA-GA, which only counts
    "Careful, disabling adapter layers with bias",  # `off` refuses what is trained beside
)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what PEFT warns of though nothing is wrong."""
    with warnings.catch_warnings():
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        yield


@dataclass
class Injection:
    """All adapters of one model, by name, and PEFT's handle of them."""

    handle: PeftModel
    frozen: frozenset[str]  # weights that were so before the first adapter was put in
    settled: set[str] = field(default_factory=set)  # those that wait to be merged with the others
    branches: set[str] = field(default_factory=set)  # other models on the same weights

    @property
    def tuner(self) -> Any:
        """PEFT's object that knows the method's own operations."""
        return self.handle.base_model

    @property
    def names(self) -> list[str]:
        """The names of the adapters, in the order in which they came."""
        return [name for name in self.handle.peft_config if name not in self.branches]

    def drop_branches(self) -> None:
        """Remove what is no part of the model that was trained."""
        for name in sorted(self.branches):
            with quiet():
                self.handle.delete_adapter(name)
        self.branches.clear()

    def config(self, name: str) -> PeftConfig:
        """Return the configuration of an adapter."""
        return self.handle.peft_config[name]

    @contextmanager
    def active(self, names: Sequence[str]) -> Iterator[None]:
        """Let only these adapters act, for a while; the gradients that are wanted stay so."""
        before = list(self.tuner.active_adapters)
        wanted = [(each, each.requires_grad) for each in self.handle.parameters()]
        try:
            with quiet():
                if names:
                    self.tuner.set_adapter(list(names))
                else:
                    self.tuner.disable_adapter_layers()
            yield
        finally:
            with quiet():
                if not names:
                    self.tuner.enable_adapter_layers()
                self.tuner.set_adapter(before)
            for parameter, requires_grad in wanted:
                parameter.requires_grad_(requires_grad)


def injection_of(model: nn.Module) -> Injection:
    """Return the adapters of a model that has some."""
    return cast("Injection", vars(model)[_PLACE])


def is_injected(model: nn.Module) -> bool:
    """Say whether a model has adapters."""
    return _PLACE in vars(model)


def frozen_weights(model: PreTrainedModel) -> frozenset[str]:
    """Return the names of the weights that others have frozen: no adapter may change them.

    Weights in few bits are frozen by what they are, and adapters are there to change them.
    """
    if is_injected(model):
        return injection_of(model).frozen
    if is_quantised(model):
        return frozenset()
    return frozenset(name for name, each in model.named_parameters() if not each.requires_grad)


def inject(
    model: PreTrainedModel, key: str, config: PeftConfig, frozen: Collection[str] = ()
) -> str:
    """Put an adapter into a model, beside those that it has, and let all act; return its name.

    `key` is the adapter's, for messages; `frozen` are the weights that others have frozen. Raises
    ConfigError where PEFT refuses.
    """
    try:
        with quiet():
            if not is_injected(model):
                handle = peft.get_peft_model(cast("Any", model), config)
                vars(model)[_PLACE] = Injection(handle, frozenset(frozen))
                return FIRST
            return _add(injection_of(model), config)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{key}: PEFT refuses: {reason}") from error


def _add(injection: Injection, config: PeftConfig) -> str:
    kinds = {str(each.peft_type) for each in injection.handle.peft_config.values()}
    if kinds != {str(config.peft_type)}:
        kind = kinds.pop().rpartition(".")[2].lower()
        raise ValueError(f"the model has an adapter of another method: {kind}; choose one of them")
    name = f"adapter_{len(injection.names)}"
    acting = [*injection.tuner.active_adapters, name]
    injection.handle.add_adapter(name, config)
    injection.tuner.set_adapter(acting)
    return name


def add_branch(
    model: PreTrainedModel, own: str, name: str, source: str | None
) -> dict[str, Tensor]:
    """Put an adapter that does not act into a model: like its own one, or out of a folder.

    Returns the weights of the folder that are no part of the adapter. Raises CheckpointError for a
    folder that does not fit.
    """
    injection = injection_of(model)
    acting = list(injection.tuner.active_adapters)
    wanted = [(each, each.requires_grad) for each in injection.handle.parameters()]
    config = copy.deepcopy(injection.config(own))
    if source is not None:
        config = PeftConfig.from_pretrained(source)
        config.task_type, cast("Any", config).modules_to_save = None, None
    try:
        with quiet():
            injection.handle.add_adapter(name, config)
            beside = {} if source is None else _load(injection, name, source)
    except (ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        msg = f"the adapter {source!r} does not fit beside that of the model: {reason}"
        raise CheckpointError(msg) from error
    injection.branches.add(name)
    with quiet():
        injection.tuner.set_adapter(acting)
    for parameter, requires_grad in wanted:
        parameter.requires_grad_(requires_grad)
    for key, parameter in injection.handle.named_parameters():
        if f".{name}." in f"{key}.":
            parameter.requires_grad_(source is None)
    return beside


def _load(injection: Injection, name: str, source: str) -> dict[str, Tensor]:
    """Give an adapter the weights of a folder; return those that are not its own."""
    weights = load_file(Path(source) / WEIGHTS)
    own = peft.get_peft_model_state_dict(
        injection.handle, adapter_name=name, save_embedding_layers=False
    )
    if missing := own.keys() - weights.keys():
        raise ValueError(f"it lacks {len(missing)} of its weights, such as {min(missing)}")
    mine = {key: weights[key] for key in own}
    peft.set_peft_model_state_dict(injection.handle, mine, adapter_name=name)
    rest = {key: value for key, value in weights.items() if key not in own}
    return {key.removeprefix(PREFIX): value for key, value in rest.items()}


def take_out(model: PreTrainedModel) -> None:
    """Remove all adapters of a model; its own weights stay."""
    with quiet():
        injection_of(model).tuner.unload()
    del vars(model)[_PLACE]


def merge(model: PreTrainedModel, *, requantise: bool) -> None:
    """Add all adapters to the weights of the model, which is a plain one afterwards.

    Weights in few bits become float32 first; with `requantise` the sum is rounded to few bits.
    """
    if is_quantised(model) and not requantise:
        _widen(model)
    injection = injection_of(model)
    with quiet():
        injection.tuner.merge_and_unload(safe_merge=True, adapter_names=injection.names)
    del vars(model)[_PLACE]
    release(model)


def _widen(model: PreTrainedModel) -> None:
    """Put the adapters on a base in float32 that computes what the one in few bits stands for."""
    injection = injection_of(model)
    kept = [
        (copy.deepcopy(injection.config(name)), adapter_weights(injection, name))
        for name in injection.names
    ]
    take_out(model)
    dequantise(model)
    for config, weights in kept:
        name = inject(model, "adapter", config)
        handle = injection_of(model).handle
        peft.set_peft_model_state_dict(handle, weights, adapter_name=name)


def adapter_weights(injection: Injection, name: str) -> dict[str, Any]:
    """Return copies of an adapter's weights by the names they have in PEFT's folders."""
    state = peft.get_peft_model_state_dict(
        injection.handle, adapter_name=name, save_embedding_layers=False
    )
    return {key: value.detach().clone() for key, value in state.items()}
