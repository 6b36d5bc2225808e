"""Which layers of a model an adapter changes: all linear ones, or those that are named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from ontogeny.errors import ConfigError
from ontogeny.models import name_matches, new_weights
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
STATE_SPACE = "A_log"  # the weights by which a mixer of Mamba's kin is known


class Choice(Protocol):
    """The options that say which layers are meant."""

    target_modules: list[str]
    exclude_modules: list[str]
    layers: list[int]
    train_also: list[str] | None


@dataclass(frozen=True)
class Layer:
    """A layer that can carry an adapter."""

    name: str
    module: nn.Module  # without the adapters that it may carry

    @property
    def is_linear(self) -> bool:
        """Whether it multiplies by a matrix."""
        return is_linear(self.module)

    @property
    def width(self) -> int | None:
        """The smaller one of its two sizes, which no rank exceeds; None if it is no matrix."""
        if isinstance(self.module, nn.Linear):
            return min(self.module.in_features, self.module.out_features)
        weight = getattr(self.module, "weight", None)
        is_matrix = isinstance(self.module, Conv1D | nn.Embedding) and weight is not None
        return min(cast("nn.Parameter", weight).shape) if is_matrix else None


def is_linear(module: nn.Module) -> bool:
    """Say whether a module multiplies by a matrix."""
    return isinstance(module, nn.Linear | Conv1D)


def layers_of(model: nn.Module) -> Iterator[Layer]:
    """Yield every layer with weights of its own, without the insides of adapters."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, BaseTunerLayer):
            inside = (*inside, f"{name}.")
            yield Layer(name, module.get_base_layer())
        elif name and next(module.parameters(recurse=False), None) is not None:
            yield Layer(name, module)


def trained_beside(model: PreTrainedModel, key: str, patterns: Sequence[str] | None) -> set[str]:
    """Return the names of the weights that are trained whole beside an adapter.

    Without patterns: those that the checkpoint lacked, and the output layers of a model that ends
    in no vocabulary. Raises ConfigError for a pattern that matches nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    if patterns is None:
        return {name for name in names if name in new_weights(model) or _in_task_head(model, name)}
    modules = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        matched = [name for name in [*modules, *names] if name_matches(pattern, name)]
        if not matched:
            _refuse_pattern(f"{key}.train_also", pattern, modules, model)
        inside = tuple(f"{name}." for name in matched)
        found |= {name for name in names if name in matched or name.startswith(inside)}
    return found


def _in_task_head(model: PreTrainedModel, name: str) -> bool:
    """Say whether a weight is of a head that is over no vocabulary, such as a classifier."""
    if model.get_output_embeddings() is not None:
        return False
    body = model.base_model_prefix
    return hasattr(model, body) and not name.startswith(f"{body}.")


def choose_layers(
    model: PreTrainedModel,
    key: str,
    choice: Choice,
    beside: Collection[str],
    frozen: Collection[str] = (),
) -> list[Layer]:
    """Return the layers to adapt, without those whose weights `frozen` names.

    `beside` names weights that are trained whole. Raises ConfigError, with the names that exist,
    where a name matches nothing.
    """
    layers = list(layers_of(model))
    chosen = _wanted(model, key, choice.target_modules, layers)
    blocked = {name.rpartition(".")[0] for name in beside}
    if choice.target_modules != [ALL_LINEAR]:
        _refuse_both(key, [layer.name for layer in chosen if layer.name in blocked])
    for pattern in choice.exclude_modules:
        if not any(name_matches(pattern, layer.name) for layer in layers):
            names = [layer.name for layer in layers]
            _refuse_pattern(f"{key}.exclude_modules", pattern, names, model)
    left_out = choice.exclude_modules
    chosen = [
        layer
        for layer in chosen
        if layer.name not in blocked and not any(name_matches(p, layer.name) for p in left_out)
    ]
    chosen = _in_blocks(model, key, choice.layers, chosen)
    free = [layer for layer in chosen if f"{layer.name}.weight" not in frozen]
    if chosen and not free:
        msg = (
            f"{key}: another adapter has frozen every layer of {choice.target_modules}, such as "
            f"{chosen[0].name}: freeze less, or name others"
        )
        raise ConfigError(msg)
    chosen = free
    if not chosen:
        msg = f"{key}: no layer is left of {choice.target_modules} after {key}.exclude_modules"
        raise ConfigError(msg)
    _refuse_tied(model, key, chosen)
    return chosen


def _wanted(
    model: PreTrainedModel, key: str, patterns: Sequence[str], layers: Sequence[Layer]
) -> list[Layer]:
    if list(patterns) == [ALL_LINEAR]:
        output = model.get_output_embeddings()
        linear = [each for each in layers if each.is_linear and each.module is not _bare(output)]
        passed_by = _passed_by(model)
        return [each for each in linear if each.name not in passed_by]
    chosen: list[Layer] = []
    for pattern in patterns:
        matched = [layer for layer in layers if name_matches(pattern, layer.name)]
        if not matched:
            names = [layer.name for layer in layers]
            _refuse_pattern(f"{key}.target_modules", pattern, names, model)
        chosen += [layer for layer in matched if layer not in chosen]
    return chosen


def _passed_by(model: nn.Module) -> set[str]:
    """Return the layers whose weights a state-space mixer reads itself: no adapter would act."""
    mixers = [(name, each) for name, each in model.named_modules() if hasattr(each, STATE_SPACE)]
    return {
        f"{name}.{part}"
        for name, mixer in mixers
        for part, _ in mixer.named_children()
        if not part.startswith("in_proj")
    }


def _bare(module: nn.Module | None) -> nn.Module | None:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _in_blocks(
    model: PreTrainedModel, key: str, blocks: Sequence[int], layers: list[Layer]
) -> list[Layer]:
    """Keep the layers of the blocks with these numbers."""
    if not blocks:
        return layers
    count = cast("int", model.config.get_text_config().num_hidden_layers)
    for block in blocks:
        if not 0 <= block < count:
            msg = f"{key}.layers has {block}; expected 0..{count - 1}, the blocks of the model"
            raise ConfigError(msg)
    numbers = {layer.name: re.search(r"\.(\d+)\.", layer.name) for layer in layers}
    return [
        layer
        for layer in layers
        if (found := numbers[layer.name]) is not None and int(found[1]) in blocks
    ]


def _refuse_both(key: str, names: Sequence[str]) -> None:
    if names:
        msg = (
            f"{key}.target_modules names {names[0]}, which {key}.train_also trains whole: leave it "
            f"out of one of them"
        )
        raise ConfigError(msg)


def _refuse_tied(model: PreTrainedModel, key: str, chosen: Iterable[Layer]) -> None:
    """Refuse embeddings that share their weights: a merge would change both layers."""
    ends = [_bare(get()) for get in (model.get_input_embeddings, model.get_output_embeddings)]
    first, last = (getattr(layer, "weight", None) for layer in ends)
    for layer in chosen:
        if first is not None and first is last and getattr(layer.module, "weight", None) is first:
            msg = (
                f"{key}.target_modules names {layer.name}, which shares its weights between input "
                f"and output (tie_word_embeddings): an adapter of one would be merged into both; "
                f"leave it out, or train it whole with {key}.train_also"
            )
            raise ConfigError(msg)


def require_rank(key: str, rank: int, layers: Iterable[Layer]) -> None:
    """Raise ConfigError if the narrowest layer is narrower than the rank of its change."""
    widths = {layer.name: layer.width for layer in layers if layer.width is not None}
    narrowest = min(widths, key=lambda name: widths[name], default=None)
    if narrowest is not None and rank > widths[narrowest]:
        msg = f"{key} is {rank}; expected 1..{widths[narrowest]}, the width of {narrowest}"
        raise ConfigError(msg)


def short_names(model: nn.Module, chosen: Sequence[Layer]) -> list[str]:
    """Return the ends of the names, such as q_proj, if no other layer has such an end."""
    full = sorted(layer.name for layer in chosen)
    ends = {name.rpartition(".")[2] for name in full}
    others = {name for name, _ in model.named_modules() if name} - set(full)
    clash = any(name_matches(end, other) for other in others for end in ends)
    return full if clash else sorted(ends)


def _refuse_pattern(key: str, pattern: str, names: Sequence[str], model: nn.Module) -> None:
    ends = sorted({name.rpartition(".")[2] for name in names} - {"0"})
    ends = [end for end in ends if not end.isdigit()]
    msg = (
        f"{key} has {pattern!r}, which matches nothing{suggestion(pattern, ends)}; "
        f"{type(model).__name__} has {', '.join(ends)} (names, their ends, or regular expressions)"
    )
    raise ConfigError(msg)


def outside_adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that belong to the model itself, by the names that it has for them."""
    layers = {name for name, each in model.named_modules() if isinstance(each, BaseTunerLayer)}
    own: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        above = [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
        nearest = next((each for each in above if each in layers), None)
        if nearest is None or name.startswith(f"{nearest}.base_layer."):
            own[re.sub(r"(\.base_layer)+\.", ".", name)] = parameter
    return own


def is_adapted(module: object) -> bool:
    """Say whether a module carries adapters."""
    return isinstance(cast("Any", module), BaseTunerLayer)
