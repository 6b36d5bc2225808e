"""Freezing weights by depth or by name, and freezing none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.adapter import Adapter, Bundle
from ontogeny.blocks import embeddings_of, find_blocks
from ontogeny.errors import ConfigError
from ontogeny.models import name_matches, trained_share
from ontogeny.preflight import Proof
from ontogeny.quantization import is_quantised
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn
    from transformers import PreTrainedModel

    from ontogeny.objective import Batch
    from ontogeny_plugins.freeze import Freeze, Full


class FreezeAdapter(Adapter):
    """Takes weights out of training, and puts them back at the end."""

    def __init__(self, config: Freeze) -> None:
        self.config = config
        self._frozen: list[nn.Parameter] = []

    def apply(self, bundle: Bundle) -> Bundle:
        """Freeze what the options name; raise ConfigError if that is nothing, or all."""
        model = bundle.model
        chosen = list(self._chosen(model))
        self._frozen = [each for each in chosen if each.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        if not any(each.requires_grad for each in model.parameters()):
            raise ConfigError(
                f"adapter.freeze leaves nothing of {type(model).__name__} to train: freeze less"
            )
        return bundle

    def _chosen(self, model: PreTrainedModel) -> Iterator[nn.Parameter]:
        if self.config.first_blocks:
            yield from self._first_blocks(model)
        if self.config.embeddings:
            for module in embeddings_of(model):
                yield from module.parameters()
        named = dict(model.named_parameters())
        yield from (named[name] for name in matching("names", model, self.config.names))
        if self.config.train_only:
            kept = matching("train_only", model, self.config.train_only)
            yield from (each for name, each in named.items() if name not in kept)

    def _first_blocks(self, model: PreTrainedModel) -> Iterator[nn.Parameter]:
        _, blocks = find_blocks(model)
        count = self.config.first_blocks
        if count > len(blocks):
            raise ConfigError(
                f"adapter.freeze.first_blocks is {count}; expected 0..{len(blocks)}, the blocks of "
                f"{type(model).__name__}"
            )
        for block in blocks[:count]:
            yield from block.parameters()

    def settle(self, bundle: Bundle) -> Bundle:
        """Make trainable again what was frozen here."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        return bundle

    def proofs(self, bundle: Bundle, batch: Batch) -> Iterable[Proof]:
        """Look whether what was frozen still is, and say how much is trained."""
        del batch
        holds = not any(each.requires_grad for each in self._frozen)
        return [Proof("adapter.freeze trains a part", holds, trained_share(bundle.model))]


def matching(option: str, model: PreTrainedModel, patterns: Sequence[str]) -> set[str]:
    """Return the names of the weights that patterns name, or that lie in modules they name.

    Raises ConfigError, with the names that exist, for a pattern that matches nothing.
    """
    weights = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    modules = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        matched = [name for name in [*modules, *weights] if name_matches(pattern, name)]
        if not matched:
            ends = {name.rpartition(".")[2] for name in modules}
            known = sorted(end for end in ends if not end.isdigit())
            raise ConfigError(
                f"adapter.freeze.{option} has {pattern!r}, which matches nothing"
                f"{suggestion(pattern, known)}; {type(model).__name__} has {', '.join(known)} "
                f"(names, their ends, or regular expressions)"
            )
        inside = tuple(f"{name}." for name in matched)
        found |= {name for name in weights if name in matched or name.startswith(inside)}
    return found


class FullAdapter(Adapter):
    """Changes nothing: says that all weights are meant to be trained."""

    def __init__(self, config: Full) -> None:
        self.config = config

    def apply(self, bundle: Bundle) -> Bundle:
        """Refuse weights in few bits, which cannot be trained."""
        if is_quantised(bundle.model):
            raise ConfigError(
                "adapter=[full] cannot train weights in few bits: set model.quantization=null, or "
                "choose adapter=[lora]"
            )
        return bundle

    def settle(self, bundle: Bundle) -> Bundle:
        """Return the bundle as it is."""
        return bundle

    def proofs(self, bundle: Bundle, batch: Batch) -> Iterable[Proof]:
        """Look whether all weights are trained."""
        del batch
        holds = all(each.requires_grad for each in bundle.model.parameters())
        return [Proof("adapter.full trains all weights", holds, trained_share(bundle.model))]
