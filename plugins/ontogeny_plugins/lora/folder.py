"""An adapter kept beside its base: a folder that PEFT opens, with all that was trained beside."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ontogeny.adapter_folder import MODEL_CONFIG, PREFIX, SIZES, WEIGHTS
from ontogeny.head import Head
from ontogeny.models import new_weights
from ontogeny_plugins.lora.injection import adapter_weights, injection_of
from ontogeny_plugins.lora.targets import is_adapted, outside_adapters

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from peft import PeftConfig
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model

Fingerprints = dict[str, tuple[float, float]]


def fingerprints(weights: Mapping[str, Tensor]) -> Fingerprints:
    """Return the sum and the sum of squares of each tensor, in float64: they change with it.

    Weights in few bits are left out: they never change.
    """
    found = {}
    for name, tensor in weights.items():
        if type(tensor) not in {Tensor, nn.Parameter}:
            continue
        wide = tensor.detach().double()
        found[name] = (float(wide.sum()), float(wide.square().sum()))
    return found


class AdapterFolderHead(Head):
    """Saves the adapter `name` and what else differs from the base, not the base itself."""

    def __init__(
        self, inner: Head, name: str, base: Fingerprints, start: Mapping[str, Tensor]
    ) -> None:
        self.inner = inner
        self.name = name
        self.base = base  # of the model's own weights, before they were trained
        self.start = start  # what the adapter began with, if that was taken out of the base

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Load as the head of the base does: it merges an adapter into its base."""
        return self.inner.load(model, tokenizer)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write adapter_config.json, adapter_model.safetensors and the config of the model."""
        injection = injection_of(model)
        config = copy.deepcopy(injection.config(self.name))
        weights = adapter_weights(injection, self.name)
        if self.start:
            weights = _on_the_original_base(cast("Any", config), weights, self.start)
        beside, whole = _beside(model, self.base)
        weights |= {f"{PREFIX}{name}": tensor for name, tensor in beside.items()}
        _complete(cast("Any", config), model, whole)
        ready = {name: tensor.cpu().contiguous().clone() for name, tensor in weights.items()}
        save_file(ready, folder / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(folder), auto_mapping_dict=_auto_mapping(config, model))
        _plain_config(model).to_json_file(folder / MODEL_CONFIG)


def _on_the_original_base(
    config: Any, weights: dict[str, Tensor], start: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a LoRA of twice the rank: W - B₀A₀ + BA = W + [B, B₀] [A; -A₀] (PiSSA, appendix C)."""
    joined = {}
    for name, tensor in weights.items():
        if name not in start:
            joined[name] = tensor
        elif ".lora_A." in name:
            joined[name] = torch.cat([tensor, -start[name].to(tensor)], 0)
        else:
            joined[name] = torch.cat([tensor, start[name].to(tensor)], 1)
    alpha = 2**0.5 if config.use_rslora else 2.0
    config.r, config.lora_alpha = 2 * config.r, alpha * config.lora_alpha
    config.rank_pattern = {key: 2 * rank for key, rank in config.rank_pattern.items()}
    config.alpha_pattern = {key: alpha * each for key, each in config.alpha_pattern.items()}
    return joined


def _beside(model: PreTrainedModel, base: Fingerprints) -> tuple[dict[str, Tensor], set[str]]:
    """Return what differs from the base, and the modules of it that PEFT shall keep apart.

    Embeddings and weights of adapted layers go straight into the base when the folder is opened,
    as those do that PEFT saves for a larger vocabulary.
    """
    own, modules = outside_adapters(model), dict(model.named_modules())
    paths = {parameter: name for name, parameter in model.named_parameters()}
    now, lost = fingerprints(own), {*new_weights(model), *_resized(model)}
    ends = _ends(model)
    kept: dict[str, Tensor] = {}
    whole = set()
    changed = [name for name in own if now.get(name) != base.get(name) or name in lost]
    heads = _heads(model, changed, ends)
    for name in changed:
        top = name.partition(".")[0]
        holder = top if top in heads else name.rpartition(".")[0]
        module = modules[holder]
        if is_adapted(module):
            kept[paths[own[name]]] = own[name].detach()
        elif module in ends.values() or (holder not in heads and list(module.children())):
            kept[name] = own[name].detach()
        else:
            whole.add(holder)
            kept |= {f"{holder}.{key}": each for key, each in module.state_dict().items()}
    return kept | _tied(ends, kept), whole


def _heads(
    model: PreTrainedModel, changed: Collection[str], ends: Mapping[str, nn.Module]
) -> set[str]:
    """Return the parts beside the body all of whose weights have changed.

    PEFT's own models for classification look for the head as one module, however it is built.
    """
    found = set()
    for name, module in model.named_children():
        weights = {f"{name}.{key}" for key, _ in module.named_parameters()}
        if weights and weights <= {*changed} and {*ends.values()}.isdisjoint(module.modules()):
            found.add(name)
    return found - {model.base_model_prefix}


def _ends(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the input and output embeddings by their names."""
    wanted = [model.get_input_embeddings(), model.get_output_embeddings()]
    return {name: each for name, each in model.named_modules() if any(each is w for w in wanted)}


def _resized(model: PreTrainedModel) -> set[str]:
    """Return the names of embeddings that have other rows than those of the base."""
    base = _base_config(model)
    same = base.get_text_config().vocab_size == model.config.get_text_config().vocab_size
    return set() if same else {f"{name}.weight" for name in _ends(model)}


def _base_config(model: PreTrainedModel) -> PreTrainedConfig:
    return cast("PreTrainedConfig", AutoConfig.from_pretrained(str(model.name_or_path)))


def has_shape_of_its_base(model: PreTrainedModel) -> bool:
    """Say whether a model has the width and the blocks of the checkpoint that it came from."""
    base = _base_config(model)
    return all(getattr(base, name, None) == getattr(model.config, name, None) for name in SIZES)


def _tied(ends: Mapping[str, nn.Module], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return output embeddings that share the weights of input embeddings that are kept."""
    weights = {f"{name}.weight": cast("nn.Parameter", end.weight) for name, end in ends.items()}
    shared = [each for name, each in weights.items() if name in kept]
    return {name: each.detach() for name, each in weights.items() if any(each is s for s in shared)}


def _complete(config: Any, model: PreTrainedModel, whole: set[str]) -> None:
    """Write into a configuration what those who open the folder need to know."""
    source = Path(str(model.name_or_path))
    config.base_model_name_or_path = str(source.resolve() if source.is_dir() else source)
    config.inference_mode = True
    if whole:
        config.modules_to_save = sorted(whole)
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True  # no split of the base, no data: the weights are there
        config.eva_config = config.corda_config = config.lora_ga_config = None
    if isinstance(config.target_modules, set | list):
        config.target_modules = sorted(config.target_modules)  # the same file every time
    if type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        config.task_type = "CAUSAL_LM"


def _auto_mapping(config: PeftConfig, model: PreTrainedModel) -> dict[str, str] | None:
    if config.task_type is not None:
        return None
    kind = type(model)
    return {"base_model_class": kind.__name__, "parent_library": kind.__module__}


def _plain_config(model: PreTrainedModel) -> Any:
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config
