"""LLaMA Pro: new blocks between those of a trained model, which at first pass on what they get."""
# B rows, T tokens, D width

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ontogeny.adapter import Adapter, Bundle
from ontogeny.blocks import find_blocks
from ontogeny.errors import ConfigError
from ontogeny.models import plain_weights, trained_share
from ontogeny.preflight import Proof
from ontogeny.quantization import is_quantised

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedConfig, PreTrainedModel

    from ontogeny.objective import Batch
    from ontogeny_plugins.freeze import BlockExpansion

# Last layers of attention and feed-forward part: what they return is added to the states.
OUTPUTS = {
    *("o_proj", "out_proj", "c_proj", "down_proj", "dense_4h_to_h", "dense", "fc2", "fc_out"),
    *("wo", "w2", "output_linear"),
}


class BlockExpansionAdapter(Adapter):
    """Copies every k-th block, lets the copy add zero, and trains the copies alone."""

    def __init__(self, config: BlockExpansion) -> None:
        self.every = config.every
        self.new: list[nn.Module] = []
        self._frozen: list[nn.Parameter] = []

    def apply(self, bundle: Bundle) -> Bundle:
        """Put the new blocks in; raise ConfigError for models whose blocks cannot do nothing."""
        model = bundle.model
        if is_quantised(model):
            raise ConfigError("adapter=[block_expansion] cannot copy weights in few bits")
        if plain_weights(model) != {*model.state_dict()}:
            raise ConfigError(
                "adapter=[block_expansion] cannot copy blocks that another adapter has changed: "
                "name block_expansion before it"
            )
        name, blocks = find_blocks(model)
        if self.every > len(blocks):
            raise ConfigError(
                f"adapter.block_expansion.every is {self.every}; expected 1..{len(blocks)}, the "
                f"blocks of {type(model).__name__}"
            )
        before = _outputs(model)
        self._frozen = [each for each in model.parameters() if each.requires_grad]
        cast("nn.Module", model).requires_grad_(False)
        order = self._order(len(blocks))
        expanded = self._expanded(blocks, order)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, expanded)
        _expand_config(model.config.get_text_config(), len(blocks), order)
        _require_same(model, before)
        return bundle

    def _order(self, count: int) -> list[tuple[int, bool]]:
        """Return (block of the model, whether as a copy) in the new order."""
        order = []
        for block in range(count):
            order.append((block, False))
            if (block + 1) % self.every == 0:
                order.append((block, True))
        return order

    def _expanded(self, blocks: nn.ModuleList, order: list[tuple[int, bool]]) -> nn.ModuleList:
        """Return old and new blocks in their order, each with its number in its attention."""
        made = []
        for place, (block, is_new) in enumerate(order):
            module = copy.deepcopy(blocks[block]) if is_new else blocks[block]
            if is_new:
                _silence(module)
                module.requires_grad_(True)
                self.new.append(module)
            for part in module.modules():
                if isinstance(getattr(part, "layer_idx", None), int):
                    part.layer_idx = place  # type: ignore[assignment]
            made.append(module)
        return nn.ModuleList(made)

    def settle(self, bundle: Bundle) -> Bundle:
        """Leave a larger, ordinary model whose weights are all trainable again."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        return bundle

    @contextmanager
    def off(self, bundle: Bundle) -> Iterator[None]:
        """Let the new blocks pass on what they get."""
        trained = [each for each in bundle.model.parameters() if each.requires_grad]
        own = {id(each) for block in self.new for each in block.parameters()}
        if any(id(each) not in own for each in trained):
            raise ConfigError(
                "adapter.block_expansion cannot be switched off: other weights of the model are "
                "trained beside it; take a frozen copy for a reference"
            )
        handles = [block.register_forward_hook(_pass_on) for block in self.new]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def proofs(self, bundle: Bundle, batch: Batch) -> Iterable[Proof]:
        """Look whether new blocks are trained; that the function is kept was checked before."""
        del batch
        evidence = f"{trained_share(bundle.model)}, in {len(self.new)} new blocks"
        holds = all(any(each.requires_grad for each in new.parameters()) for new in self.new)
        yield Proof("adapter.block_expansion trains new blocks", holds, evidence)


def _silence(block: nn.Module) -> None:
    """Set to zero what a block adds to the states."""
    for name, parameter in block.named_parameters():
        if OUTPUTS & set(name.split(".")):
            nn.init.zeros_(parameter)


def _pass_on(_: nn.Module, given: tuple[Any, ...], returned: Any) -> Any:
    return (given[0], *returned[1:]) if isinstance(returned, tuple) else given[0]


def _expand_config(config: PreTrainedConfig, count: int, order: list[tuple[int, bool]]) -> None:
    """Give each block its entry in what the config lists by block, such as layer_types."""
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == count:
            setattr(config, name, [value[block] for block, _ in order])
    config.num_hidden_layers = len(order)


@torch.no_grad()
def _outputs(model: PreTrainedModel) -> Tensor:
    """Return what a model makes of a few tokens, in eval mode."""
    device = next(model.parameters()).device
    ids_BT = torch.arange(8, device=device)[None] % model.config.get_text_config().vocab_size
    modes = {module: module.training for module in model.modules()}
    made = model.eval()(ids_BT)
    for module, training in modes.items():
        module.training = training
    return cast("Tensor", made[0])


def _require_same(model: PreTrainedModel, before: Tensor) -> None:
    """Refuse a family whose new blocks change the function, or whose config cannot say them."""
    after = _outputs(model)
    if not torch.equal(before, after):
        raise ConfigError(
            f"adapter=[block_expansion] does not fit {type(model).__name__}: its blocks change the "
            f"states even if their last layers return zero (as where a norm follows the sum), or "
            f"those layers are not known; logits move by {float((before - after).abs().max()):.1e}"
        )
    if plain_weights(model) != {*model.state_dict()}:
        raise ConfigError(
            f"adapter=[block_expansion] does not fit {type(model).__name__}: its config cannot "
            f"describe {len(find_blocks(model)[1])} blocks, so nobody could open the checkpoint"
        )
