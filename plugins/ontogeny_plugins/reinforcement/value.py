"""What predicts the reward that is still to come after each token of an answer."""
# B rows, T tokens, N labelled tokens, D width

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn

from ontogeny.attention import model_inputs
from ontogeny.errors import ConfigError
from ontogeny.objective import IGNORED
from ontogeny.output_layer import label_states

if TYPE_CHECKING:
    from ontogeny.adapter import Bundle
    from ontogeny.companions import Branch, Companions
    from ontogeny.objective import Batch
    from ontogeny_plugins.reinforcement import PPO

BRANCH = "value"


class ValueLayer(nn.Module):
    """One number for a hidden state, in float32; it begins at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(1))  # not 0-d: DDP and FSDP shard what has a length

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Return [N]."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return hidden_ND.float() @ self.weight.float() + self.bias.float()


class Values(ABC):
    """Predicts values; `module` is what is trained beside the model."""

    name: str  # for the table of memory
    module: nn.Module
    reads_states: ClassVar[bool] = False  # of the policy; else its pass may be left out

    @abstractmethod
    def __call__(self, policy: nn.Module, batch: Batch, hidden_ND: Tensor | None) -> Tensor:
        """Return the values before each labelled token, [N].

        `hidden_ND` are the states of the policy there; None unless `reads_states`.
        """


class SharedValues(Values):
    """A layer on the model's own states, whose gradients reach the model."""

    name = "a layer on the model's own states"
    reads_states = True

    def __init__(self, bundle: Bundle) -> None:
        self.module = ValueLayer(_width(bundle))

    def __call__(self, policy: nn.Module, batch: Batch, hidden_ND: Tensor | None) -> Tensor:
        """Return [N]; no further pass is needed."""
        del policy, batch
        return cast("Tensor", self.module(hidden_ND))


class AdapterValues(Values):
    """The model with an adapter of its own for values, and a layer on its states."""

    name = "the model with another adapter"

    def __init__(self, bundle: Bundle, companions: Companions) -> None:
        if companions.config.trainer.gradient_checkpointing:
            msg = (
                "trainer.gradient_checkpointing is set, which computes activations again on the "
                "way back, when the adapter for values acts no more: set objective.value=separate"
            )
            raise ConfigError(msg)
        self.branch: Branch = companions.branch(BRANCH)
        self.module = ValueLayer(_width(bundle))

    def __call__(self, policy: nn.Module, batch: Batch, hidden_ND: Tensor | None) -> Tensor:
        """Return [N], after a pass with the other adapter."""
        del hidden_ND
        with self.branch.on():
            hidden_ND, _, _ = label_states(policy, model_inputs(policy, batch), batch["labels"])
        return cast("Tensor", self.module(hidden_ND))


class SeparateValues(Values):
    """A model of its own, with the stage's adapters where there are any."""

    name = "a model of its own"

    def __init__(self, companions: Companions, source: str | None) -> None:
        bundle = companions.trained("value", source)
        self.module = cast("nn.Module", bundle.model)
        self.module.eval()

    def __call__(self, policy: nn.Module, batch: Batch, hidden_ND: Tensor | None) -> Tensor:
        """Return [N]."""
        del policy, hidden_ND
        values_BT = self.module(**model_inputs(self.module, batch)).logits[..., 0]
        return cast("Tensor", values_BT[batch["labels"] != IGNORED].float())


def values_of(options: PPO, bundle: Bundle, companions: Companions) -> Values:
    """Return what `objective.value` names."""
    kind = options.value
    if kind == "auto":
        adapted = companions.config.adapter and options.value_source is None
        kind = "adapter" if adapted else "separate"
    if kind == "shared":
        return SharedValues(bundle)
    if kind == "adapter":
        return AdapterValues(bundle, companions)
    return SeparateValues(companions, options.value_source)


def _width(bundle: Bundle) -> int:
    layer = bundle.model.get_output_embeddings()
    return int(cast("Tensor", cast("nn.Module", layer).weight).shape[-1])
