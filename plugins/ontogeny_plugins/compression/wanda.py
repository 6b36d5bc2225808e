"""Wanda: a weight matters by its size times that of what it is multiplied with."""
# B rows, T tokens, D width, O outputs, I inputs

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch

from ontogeny.attention import model_inputs
from ontogeny.objective import IGNORED
from ontogeny_plugins.compression.pruning import Pruning, block_lists, matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor, nn

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Batch

FIRST = "hidden_states"  # what blocks are given, where it has a name


@dataclass
class Call:
    """What a block was given beside the hidden states, for one batch."""

    rest: tuple[object, ...]
    named: dict[str, object]


class WandaAdapter(Pruning):
    """Prunes block after block, each with what the pruned blocks before it give."""

    def apply(self, bundle: Bundle) -> Bundle:
        """Note the layers; what they are given is seen later."""
        self.choose(bundle)
        return bundle

    def initialise(self, bundle: Bundle, batches: Iterable[Batch]) -> None:
        """Prune, by |W| · ‖X‖₂ within each output (Sun et al. 2023, eq. 1)."""
        model = cast("nn.Module", bundle.model)
        seen = list(islice(batches, cast("int", self.config.batches)))  # type: ignore[union-attr]
        modes = {module: module.training for module in model.modules()}
        model.eval()
        with torch.no_grad():
            for blocks in block_lists(model).values():
                self._prune_blocks(model, list(blocks), seen)
        for module, training in modes.items():
            module.training = training

    def _prune_blocks(
        self, model: nn.Module, blocks: Sequence[nn.Module], batches: Sequence[Batch]
    ) -> None:
        starts, calls = _watched(model, blocks, batches)
        masks = [_real(batch) for batch in batches]
        for block in blocks:
            if block not in calls:
                continue  # a block that the model passes over
            own = {id(each) for each in block.modules()}
            layers = [each for each in self.layers.values() if id(each) in own]
            with squared_inputs(layers, masks) as sums:
                for hidden_BTD, call in zip(starts, calls[block], strict=True):
                    _run(block, hidden_BTD, call)
            for layer in layers:
                if layer in sums:
                    self.prune(layer, matrix(layer).abs() * sums[layer].sqrt(), by_row=True)
            starts = [_run(block, *each) for each in zip(starts, calls[block], strict=True)]


@contextmanager
def squared_inputs(
    layers: Iterable[nn.Module], masks: Sequence[Tensor]
) -> Iterator[dict[nn.Module, Tensor]]:
    """Sum the squares of what layers are given, over all real tokens: [I] each, float32.

    Layers are called once for each mask, in their order. One whose input has another shape, as
    that of a pooled row, is summed over all that it is given.
    """
    sums: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}

    def add(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        values = given[0].float()
        mask_BT = masks[counts.get(layer, 0) % len(masks)].to(values.device)
        counts[layer] = counts.get(layer, 0) + 1
        if values.shape[:-1] == mask_BT.shape:
            values = values[mask_BT]
        total_I = values.reshape(-1, values.shape[-1]).square().sum(0)
        sums[layer] = sums[layer] + total_I if layer in sums else total_I

    with ExitStack() as stack:
        for layer in layers:
            handle = layer.register_forward_pre_hook(add)
            stack.callback(handle.remove)
        yield sums


def _watched(
    model: nn.Module, blocks: Sequence[nn.Module], batches: Sequence[Batch]
) -> tuple[list[Tensor], dict[nn.Module, list[Call]]]:
    """Return what the first block is given, and what every block is given beside that."""
    starts: list[Tensor] = []
    calls: dict[nn.Module, list[Call]] = {}

    def note(block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = given[0] if given else named[FIRST]
        rest = {name: value for name, value in named.items() if name != FIRST}
        if block is blocks[0]:
            starts.append(hidden)
        calls.setdefault(block, []).append(Call(given[1:], rest))

    with ExitStack() as stack:
        for block in blocks:
            handle = block.register_forward_pre_hook(note, with_kwargs=True)
            stack.callback(handle.remove)
        for batch in batches:
            model.base_model(**model_inputs(model, batch))  # type: ignore[operator]
    return starts, calls


def _run(block: nn.Module, hidden_BTD: Tensor, call: Call) -> Tensor:
    found = block(hidden_BTD, *call.rest, **call.named)
    return cast("Tensor", found[0] if isinstance(found, tuple) else found)


def _real(batch: Batch) -> Tensor:
    """Return which tokens are no padding: bool [B, T].

    In packed rows padding is what comes after the last label.
    """
    real_BT = torch.ones_like(batch["input_ids"], dtype=torch.bool)
    if "attention_mask" in batch:
        real_BT &= batch["attention_mask"].bool()
    labels_BT = batch.get("labels")
    if labels_BT is not None and labels_BT.shape == real_BT.shape:
        labelled_BT = (labels_BT != IGNORED).long()
        real_BT &= labelled_BT.flip(1).cumsum(1).flip(1) > 0
    return real_BT
