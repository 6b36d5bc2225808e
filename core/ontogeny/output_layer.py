"""From a model to its output layer: what reaches it, and what is done to its logits afterwards."""
# B batch, T time, N labelled positions, C positions of a chunk, D width, V vocabulary

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ontogeny.errors import ConfigError
from ontogeny.objective import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


class OutputLayer(nn.Module):
    """Maps rows of hidden states to a model's logits, with all that the model does to them.

    `linear` is (weight_VD, bias_V) if that is one linear map, wherever its weights come from.
    """

    def __init__(self, layer: nn.Module, inside: _Recorder, after: _Recorder) -> None:
        super().__init__()
        hooks = layer._forward_hooks or layer._forward_pre_hooks  # noqa: SLF001  no public way
        self.layer = layer
        self.tape, self.slot = after.tape, after.slot  # soft caps, scales
        self.linear = None if hooks or _changes(after) else _as_linear(inside)
        self.leading = (1,) * (after.ndim - 2)  # dimensions that the model's own code expects
        self.vocabulary = after.shape[-1]

    def forward(self, hidden_CD: Tensor) -> Tensor:
        """Return logits_CV; the layer's own hooks run."""
        hidden = hidden_CD.view(*self.leading, *hidden_CD.shape)
        logits = _replay(self.tape, self.layer(hidden))[self.slot]
        return logits.view(len(hidden_CD), self.vocabulary)


def label_states(
    model: nn.Module, inputs: Mapping[str, object], labels_BT: Tensor
) -> tuple[Tensor, Tensor, OutputLayer]:
    """Run a model up to its output layer; return hidden_ND, labels_N and that layer.

    N are the positions whose label is not -100. Waits for a GPU once, to know N. Raises
    ConfigError if the logits do not come from one layer, or not at every position.
    """
    hidden_BTD, layer = _run_without_logits(model, inputs)
    if hidden_BTD.shape[:-1] != labels_BT.shape:
        raise ConfigError(
            f"{type(model).__name__} feeds {tuple(hidden_BTD.shape[:-1])} positions to its output "
            f"layer; expected those of the labels, {tuple(labels_BT.shape)}: leave out what adds "
            f"or drops positions (virtual tokens, logits_to_keep)"
        )
    hidden_ND, labels_N = hidden_BTD.flatten(0, -2), labels_BT.flatten().long()
    positions_N = (labels_N != IGNORED).nonzero().squeeze(1)
    if len(positions_N) < len(labels_N):
        hidden_ND, labels_N = hidden_ND[positions_N], labels_N[positions_N]
    return hidden_ND, labels_N, layer


def _run_without_logits(
    model: nn.Module, inputs: Mapping[str, object]
) -> tuple[Tensor, OutputLayer]:
    """Run a model whose output layer is shown no positions; return the layer's input, and it."""
    find = getattr(model, "get_output_embeddings", None)
    layer: nn.Module | None = find() if find else None
    states: list[Tensor] = []
    inside: list[_Recorder] = []
    after: list[_Recorder] = []
    if layer is not None:
        with _watched(layer, states, inside):
            outputs = model(**inputs)
        values = outputs.values() if hasattr(outputs, "values") else outputs
        after = [value for value in values if isinstance(value, _Recorder)]
    if layer is None or len(states) != 1 or len(after) != 1:
        raise ConfigError(
            f"{type(model).__name__} makes {len(after)} tensors of logits in {len(states)} calls "
            f"of its output embeddings; expected one in one: take a model with a causal or masked "
            f"language modelling head that has one output layer"
        )
    return states[0], OutputLayer(layer, inside[0], after[0])


@contextmanager
def _watched(layer: nn.Module, states: list[Tensor], outputs: list[_Recorder]) -> Iterator[None]:
    """Keep positions out of a layer, within all its other hooks; note its input and output."""

    def before(_: nn.Module, args: tuple[Tensor]) -> _Recorder:
        states.append(args[0])
        return _Recorder.start(args[0][..., :0, :])

    def after(_layer: nn.Module, _args: object, output: _Recorder) -> _Recorder:
        outputs.append(output)
        return _Recorder.start(output)

    handles = (
        layer.register_forward_pre_hook(before, prepend=True),
        layer.register_forward_hook(after),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Recorder(Tensor):
    """A tensor of no positions that records what is done to it, to do it to a chunk later."""

    tape: list[_Step]  # what was done since the start, step n of which made slot n + 1
    slot: int

    @classmethod
    def start(cls, tensor: Tensor) -> _Recorder:
        """Forget what was done to a tensor, and record from here."""
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  as torch's own subclasses do
            recorder = tensor.detach().as_subclass(cls)
        recorder.tape, recorder.slot = [], 0
        return recorder

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Do it to what is empty, and remember it if it makes or changes a tensor."""
        given = (args, dict(kwargs or {}))
        tape = next(leaf.tape for leaf in tree_leaves(given) if isinstance(leaf, cls))
        noted = tree_map(lambda leaf: _Slot(leaf.slot) if isinstance(leaf, cls) else leaf, given)
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001
            # A product of no rows is left out: autocast would cast all weights for it.
            run = _empty_product if func is nn.functional.linear else func
            result = run(*args, **given[1])
        if isinstance(result, Tensor) or func is Tensor.__setitem__:
            tape.append((func, *noted))
        if isinstance(result, Tensor):
            result = result if isinstance(result, cls) else result.as_subclass(cls)
            result.tape, result.slot = tape, len(tape)
        return result


class _Slot(int):
    """Stands for the tensor that a step made: to hold it would be a cycle of references."""


_Step = tuple["Callable[..., Any]", tuple[Any, ...], dict[str, Any]]
_CASTS = (Tensor.float, Tensor.to, Tensor.contiguous)  # the softmax is in float32 anyway


def _changes(recorder: _Recorder) -> list[_Step]:
    return [step for step in recorder.tape if step[0] not in _CASTS]


def _replay(tape: Sequence[_Step], start: Tensor) -> list[Tensor]:
    """Do to a tensor what was recorded; return what is in every slot."""
    slots = [start]
    for func, *given in tape:
        args, kwargs = tree_map(
            lambda leaf: slots[leaf] if isinstance(leaf, _Slot) else leaf, given
        )
        slots.append(func(*args, **kwargs))
    return slots


def _empty_product(input: Tensor, weight: Tensor, bias: object = None) -> Tensor:  # noqa: A002, ARG001
    return input.new_empty(*input.shape[:-1], len(weight), dtype=product_dtype(weight))


def _as_linear(output: _Recorder) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias if one linear map is all that was done."""
    steps = _changes(output)
    if len(steps) != 1 or steps[0][0] is not nn.functional.linear:
        return None
    _, args, kwargs = steps[0]
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return given["weight"], given.get("bias")


def product_dtype(weight: Tensor) -> torch.dtype:
    """Return the type in which a product with these weights is computed."""
    if torch.is_autocast_enabled(weight.device.type) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype
