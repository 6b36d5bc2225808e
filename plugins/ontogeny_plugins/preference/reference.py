"""The reference of a preference objective: who says what the model would have said before."""
# N scored tokens

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from ontogeny.companions import Companion, Companions
    from ontogeny.objective import Batch

COLUMN = "reference_log_probs"  # of an annotated row


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class Reference:
    """Returns the reference's log-probabilities, wherever they come from."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._companions: Companions | None = None
        self.model: nn.Module | None = None  # of a frozen one

    def begin(self, companions: Companions) -> None:
        """Take the reference: the model that the stage is given, or that of `teacher.source`."""
        self._companions = companions
        self._check(companions)
        if self.kind == "frozen":
            self.model = cast("nn.Module", self._companion().load().model)

    def annotator(self) -> Companion | None:
        """Return the model that reads all rows once, where that was chosen."""
        return self._companion() if self.kind == "cached" else None

    def log_probs(self, policy: nn.Module, batch: Batch, scores: Callable[..., Tensor]) -> Tensor:
        """Return the reference's log p of every scored token, [N], without gradients.

        `scores` computes them with a model; of an annotated batch it is not called.
        """
        if self.kind == "cached":
            return batch[COLUMN][batch["pair_ids"] >= 0]
        model = policy if self.model is None else self.model
        off: AbstractContextManager[None] = nullcontext()
        if self._switches:
            off = cast("Companions", self._companions).adapters_off()
        with torch.no_grad(), off, _in_eval_mode(model):
            return scores(model, batch)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of a frozen reference."""
        return cast("nn.Module", self.model).state_dict()

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Set the weights of a frozen reference."""
        cast("nn.Module", self.model).load_state_dict(weights)

    def _companion(self) -> Companion:
        companions = cast("Companions", self._companions)
        return companions.teacher or companions.original

    @property
    def _switches(self) -> bool:
        return self.kind == "adapter_off"

    def _check(self, companions: Companions) -> None:
        """Raise ConfigError for a reference that is none, or one that is set and not used."""
        if companions.teacher is not None and self.kind in {"adapter_off", "none"}:
            msg = (
                f"teacher.source is set, but objective.reference is {self.kind!r}, which does not "
                f"use it; leave it out, or set objective.reference=cached or frozen"
            )
            raise ConfigError(msg)
        if self.kind in {"cached", "frozen"}:
            companions.require_same_tokens(self._companion())

    def follow(self, policy: nn.Module, share: float) -> None:
        """Move a frozen reference towards the model (TR-DPO: Gorbatovski et al. 2024, eq. 7)."""
        weights = dict(policy.named_parameters())
        with torch.no_grad():
            for name, parameter in cast("nn.Module", self.model).named_parameters():
                parameter.lerp_(weights[name], share)
