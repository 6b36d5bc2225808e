"""How weights are cut: which dimension of which weight is what, and which units are strongest.

What a dimension stands for is found out, whatever the family, by building the architecture without
memory and with one size doubled: the dimensions that double with it are of that kind.
"""
# U units of a width

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ontogeny.blocks import find_blocks
from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

# What families call a size.
NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "shared": ("num_key_value_heads",),
}
Dimensions = dict[str, dict[int, int]]  # name of a weight -> dimension -> its length


@dataclass(frozen=True)
class Width:
    """One size that is made smaller, and what is kept of it."""

    kind: str
    before: int  # units, all together
    kept_U: Tensor  # the numbers of those kept, ascending
    dimensions: Dimensions
    config: Mapping[str, int]  # what the student's config says instead
    in_blocks: bool  # a unit is several neighbours in a dimension, else one of several rounds

    def cut(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight with the kept units of this width alone."""
        for dimension, length in self.dimensions.get(name, {}).items():
            weight = weight.index_select(dimension, self._places(length).to(weight.device))
        return weight

    def record(self) -> dict[str, object]:
        """Return what a lineage says of it."""
        return {"before": self.before, "kept": self.kept_U.tolist()}

    def _places(self, length: int) -> Tensor:
        each = length // self.before
        if self.in_blocks:
            return (self.kept_U[:, None] * each + torch.arange(each)).flatten()
        return (torch.arange(each)[:, None] * self.before + self.kept_U).flatten()


class Anatomy:
    """The sizes of a model, and which dimensions of its weights follow each."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.config = copy.deepcopy(model.config)
        text = self.config.get_text_config()
        self.heads, self.shared = _size(text, "heads"), _size(text, "shared")
        self.hidden = cast("int", _size(text, "hidden_size"))
        self._explicit: dict[str, int] = {}  # sizes that would follow from others if not said
        if _name(text, "intermediate_size") == "n_inner" and text.n_inner is None:
            text.n_inner = self._explicit["n_inner"] = 4 * self.hidden
        if self.heads and getattr(text, "head_dim", None) is None:
            text.head_dim = self.hidden // self.heads
        self.shapes = _shapes(model, self.config)
        groups = {name: 2 for name in ("heads", "shared") if _size(text, name)}
        # Empty where heads divide the states among them, whatever head_dim says.
        self.of_heads = self._following(groups)
        if self.of_heads:
            self._explicit["head_dim"] = text.head_dim

    def strongest(self, sizes: Mapping[str, int]) -> list[Width]:
        """Choose units by the norm of all weights that belong to them.

        Raises ConfigError for sizes that the model cannot have.
        """
        made = []
        for kind, size in sizes.items():
            if kind == "heads":
                made.append(self._heads(size))
            elif kind == "hidden_size" and not self.of_heads:
                made.append(self._states_with_heads(size))
            else:
                made.append(self._plain(kind, size))
        return made

    def _plain(self, kind: str, size: int) -> Width:
        text = self.config.get_text_config()
        before, dimensions = _size(text, kind), self._following({kind: 2})
        if before is None or not dimensions:
            raise ConfigError(self._unknown(kind))
        return self._chosen(kind, before, size, dimensions, {str(_name(text, kind)): size})

    def _heads(self, size: int) -> Width:
        if not self.of_heads or self.heads is None:
            raise ConfigError(
                f"adapter.cut.heads is {size}, but the heads of {type(self.model).__name__} divide "
                f"its states among them: set adapter.cut.hidden_size"
            )
        groups = self.shared or self.heads
        together = self.heads // groups
        _require_multiple("heads", size, together, self.heads)
        text = self.config.get_text_config()
        config = {str(_name(text, "heads")): size}
        if self.shared:
            config[str(_name(text, "shared"))] = size // together
        return self._chosen("heads", groups, size // together, self.of_heads, config, blocks=True)

    def _states_with_heads(self, size: int) -> Width:
        """Cut states where each head has a part of them: whole heads."""
        each = self.hidden // cast("int", self.heads)
        _require_multiple("hidden_size", size, each, self.hidden)
        text = self.config.get_text_config()
        names = {kind: str(_name(text, kind)) for kind in ("hidden_size", "heads")}
        config = {names["hidden_size"]: size, names["heads"]: size // each}
        dimensions = self._following({"hidden_size": 2, "heads": 2})
        return self._chosen("hidden_size", self.hidden, size, dimensions, config, group=each)

    def _chosen(
        self,
        kind: str,
        before: int,
        size: int,
        dimensions: Dimensions,
        config: Mapping[str, int],
        *,
        blocks: bool = False,
        group: int = 1,
    ) -> Width:
        if not 1 <= size <= before:
            raise ConfigError(f"adapter.cut.{kind} is {size}; expected 1..{before}, as it has")
        weights, strength_U = self.model.state_dict(), torch.zeros(before)
        for name, found in dimensions.items():
            for dimension, length in found.items():
                if length % before:
                    raise ConfigError(self._unknown(kind))
                energy = weights[name].detach().float().cpu().square()
                flat = energy.movedim(dimension, 0).reshape(length, -1).sum(1)
                shape = (before, -1) if blocks else (-1, before)
                strength_U += flat.view(*shape).sum(1 if blocks else 0)
        best = strength_U.view(-1, group).sum(1).topk(size // group).indices.sort().values
        kept_U = (best[:, None] * group + torch.arange(group)).flatten()
        config = {**self._explicit, **config}
        return Width(kind, before, kept_U, dimensions, config, in_blocks=blocks)

    def _following(self, factors: Mapping[str, int]) -> Dimensions:
        """Return the dimensions that are twice as long where some sizes are multiplied."""
        config = copy.deepcopy(self.config)
        text = config.get_text_config()
        for kind, factor in factors.items():
            name = _name(text, kind)
            if name is not None:
                setattr(text, name, factor * getattr(text, name))
        larger = _shapes(self.model, config)
        found = {
            name: {
                place: length
                for place, (length, other) in enumerate(zip(shape, larger[name], strict=True))
                if other != length
            }
            for name, shape in self.shapes.items()
        }
        return {name: places for name, places in found.items() if places}

    def _unknown(self, kind: str) -> str:
        return (
            f"adapter.cut.{kind} cannot be cut in a {type(self.model).__name__}: what belongs to "
            f"it is not known; cut blocks (adapter.cut.depth), or another size"
        )


def cut(model: PreTrainedModel, layers: Sequence[int], widths: Sequence[Width]) -> PreTrainedModel:
    """Return a new model of some blocks, and of some units of each width, of another one."""
    config = copy.deepcopy(model.config)
    _shorten(config.get_text_config(), len(find_blocks(model)[1]), layers)
    for width in widths:
        for name, value in width.config.items():
            setattr(config.get_text_config(), name, value)
    student = _built(model, config)
    given, blocks = model.state_dict(), find_blocks(model)[0]
    made = {}
    for own, now in student.state_dict().items():
        source = _source_name(own, blocks, layers)
        weight = given[source]
        for width in widths:
            weight = width.cut(source, weight)
        if weight.shape != now.shape:
            raise ConfigError(
                f"adapter=[cut] does not fit {type(model).__name__}: {own} would be "
                f"{tuple(weight.shape)}, its config wants {tuple(now.shape)}; cut blocks alone"
            )
        made[own] = weight
    cast("nn.Module", student).load_state_dict(made)
    student.tie_weights()
    if model.can_generate():
        student.generation_config = copy.deepcopy(model.generation_config)
    cast("nn.Module", student).to(model.device).train(model.training)
    return student


def _built(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model of the same class; raise ConfigError for what its family refuses."""
    try:
        return type(model)(config)
    except Exception as error:  # each family checks its own values in its own way
        reason = " ".join(str(error).split())
        raise ConfigError(f"adapter=[cut] does not fit {type(model).__name__}: {reason}") from error


def _shapes(model: PreTrainedModel, config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        built = _built(model, copy.deepcopy(config))
    return {name: tuple(weight.shape) for name, weight in built.state_dict().items()}


def _source_name(own: str, blocks: str, layers: Sequence[int]) -> str:
    """Return the teacher's name of a student's weight."""
    if not own.startswith(f"{blocks}."):
        return own
    number, _, rest = own.removeprefix(f"{blocks}.").partition(".")
    return f"{blocks}.{layers[int(number)]}.{rest}"


def _shorten(config: PreTrainedConfig, count: int, layers: Sequence[int]) -> None:
    """Let a config have some of its blocks, and of what it lists by block, such as layer_types."""
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == count:
            setattr(config, name, [value[layer] for layer in layers])
    config.num_hidden_layers = len(layers)


def _name(config: PreTrainedConfig, kind: str) -> str | None:
    return next((name for name in NAMES[kind] if name in vars(config)), None)


def _size(config: PreTrainedConfig, kind: str) -> int | None:
    name = _name(config, kind)
    return None if name is None else cast("int | None", getattr(config, name))


def _require_multiple(kind: str, size: int, together: int, before: int) -> None:
    if size % together or not together <= size <= before:
        raise ConfigError(
            f"adapter.cut.{kind} is {size}; expected a multiple of {together} up to {before}: so "
            f"many belong together"
        )
