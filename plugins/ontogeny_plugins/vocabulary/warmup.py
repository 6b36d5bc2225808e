"""The stages of a warm-up: the new rows alone, then all embeddings, then everything."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import lightning as L

from ontogeny.errors import ConfigError
from ontogeny_plugins.vocabulary.embeddings import vocabulary_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ontogeny.lightning_module import TrainingModule


class StagedWarmup(L.Callback):
    """Takes the gradients of what is not to learn yet; a pure function of the steps done.

    `ids` are the new rows, `steps` the lengths of the first two stages. Where another adapter
    froze the model (`is_frozen`), old rows learn only from a second stage on.
    """

    def __init__(self, ids: range, steps: tuple[int, int], *, is_frozen: bool) -> None:
        self._ids = ids
        self._body_learns_from = sum(steps)
        self._old_rows_learn_from: float = steps[0]
        if is_frozen and steps[1] == 0:
            self._old_rows_learn_from = math.inf

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise ConfigError where a process does not hold whole rows."""
        model = cast("PreTrainedModel", cast("TrainingModule", pl_module).model)
        rows = vocabulary_parameters(model)
        # A piece of a matrix is a vector, an empty tensor, or a DTensor with its placements.
        whole = rows[0].dim() == 2 and len(rows[0]) >= self._ids.stop
        if not whole or hasattr(rows[0], "placements"):
            strategy = type(trainer.strategy).__name__
            msg = (
                f"adapter.vocabulary holds back the gradients of single rows, which {strategy} "
                f"spreads over processes: choose trainer=gpu or trainer=ddp, or train all weights "
                f"at once (adapter.vocabulary.warmup=[0,0], no adapter that freezes the model)"
            )
            raise ConfigError(msg)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop gradients: the optimiser passes over a parameter that has none.

        Rows cannot be passed over, but without weight decay a gradient of 0 leaves them as they
        are, as long as they never had another.
        """
        del trainer
        module = cast("TrainingModule", pl_module)
        rows = vocabulary_parameters(cast("PreTrainedModel", module.model))
        if module.consumed < self._body_learns_from:
            kept = {id(parameter) for parameter in rows}
            for parameter in module.model.parameters():
                if id(parameter) not in kept:
                    parameter.grad = None
        if module.consumed < self._old_rows_learn_from:
            for parameter in rows:
                if parameter.grad is not None:
                    parameter.grad[: self._ids.start] = 0
                    parameter.grad[self._ids.stop :] = 0
