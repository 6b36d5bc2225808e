"""The reference that the model must not leave far behind."""
# N tokens

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


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Leave dropout out for a while."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class Reference:
    """What the model was: a frozen copy, the model without its adapters, or none."""

    def __init__(self, kind: str, companions: Companions) -> None:
        self.companions = companions
        self.kind = kind
        if kind == "auto":
            has_teacher = companions.teacher is not None
            adapted = companions.config.adapter and not has_teacher
            self.kind = "adapter_off" if adapted else "frozen"
        if companions.teacher is not None and self.kind != "frozen":
            msg = (
                f"teacher.source is set, but objective.reference is {kind!r}, which does not use "
                f"it; leave it out, or set objective.reference=frozen"
            )
            raise ConfigError(msg)
        self.model: nn.Module | None = None
        if self.kind == "frozen":
            companion: Companion = companions.teacher or companions.original
            companions.require_same_tokens(companion)
            self.model = cast("nn.Module", companion.load().model)

    @torch.no_grad()
    def log_probs(
        self, policy: nn.Module, batch: Batch, scores: Callable[[nn.Module, Batch], Tensor]
    ) -> Tensor:
        """Return the reference's log p of every labelled token, [N]."""
        model = policy if self.model is None else self.model
        off: AbstractContextManager[None] = nullcontext()
        if self.kind == "adapter_off":
            off = self.companions.adapters_off()
        with off, in_eval_mode(model):
            return scores(model, batch)
