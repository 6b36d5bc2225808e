"""One lesson: a batch, a student, and what its teacher says of the batch, as one loss."""
# B rows, T tokens, N labelled positions, K kept tokens, B buckets (K + 1)

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

import torch

from ontogeny.attention import model_inputs
from ontogeny.logit_loss import logit_loss
from ontogeny.objective import IGNORED, Batch, Loss
from ontogeny.output_layer import label_states
from ontogeny.preflight import Proof
from ontogeny_plugins.distillation.divergences import LOWEST, Named, divergence
from ontogeny_plugins.distillation.features import Features, Seen
from ontogeny_plugins.distillation.row_losses import FromLogits, FromTop, Weights
from ontogeny_plugins.distillation.teacher import (
    TeacherStates,
    as_module,
    load,
    require_same_tokens,
    shared_vocabulary,
    teacher_of,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny.logit_loss import RowLoss
    from ontogeny.output_layer import OutputLayer

IDS, LOG_PROBS, REST = "teacher_ids", "teacher_log_probs", "teacher_rest"  # of a teacher's words
TOLERANCE = 1e-4  # nats of a token, float32


class Mix(Named, Protocol):
    """The options that say how a loss is put together."""

    temperature: float
    scale_by_temperature: bool
    cross_entropy: float


class Lesson:
    """Brings a student and a teacher together, which is in memory or was kept in the batch."""

    def __init__(self, mix: Mix, features: Features) -> None:
        squared = mix.temperature**2 if mix.scale_by_temperature else 1.0
        self.weights = Weights(
            divergence(mix),
            mix.temperature,
            scale=(1 - mix.cross_entropy) * squared,
            cross_entropy=mix.cross_entropy,
        )
        self.features = features
        self.teacher: nn.Module | None = None

    def begin(self, companions: Companions) -> None:
        """Load the teacher; raise ConfigError where there is none, or one with other tokens."""
        teacher = teacher_of(companions)
        require_same_tokens(companions, teacher)
        self.teacher = as_module(load(companions, teacher))

    def auxiliary(self, bundle: Bundle) -> nn.Module | None:
        """Return the projections of the student's states, where they are matched."""
        if not self.features or self.teacher is None:
            return None
        return self.features.fit(as_module(bundle), self.teacher)

    def loss(
        self,
        model: nn.Module,
        batch: Batch,
        labels_BT: Tensor,
        *,
        hard_BT: Tensor | None = None,
        matched_BT: Tensor | None = None,
    ) -> Loss:
        """Return Σ over labelled tokens of the mix of losses, and their number.

        The tokens of `hard_BT` alone (float, none: all) are the data's own. Hidden states and
        attention are matched with the weights `matched_BT` (none: where there are labels).
        """
        labelled_BT = labels_BT != IGNORED
        theirs, their_seen = None, Seen()
        if self.teacher is not None:  # first, so that its states are gone when ours are kept
            with self._watching(self.teacher, teacher=True) as their_seen:
                inputs = model_inputs(self.teacher, batch)
                theirs = TeacherStates(self.teacher, inputs, labels_BT)
        with self._watching(model, teacher=False) as seen:
            inputs = model_inputs(model, batch)
            hidden_ND, labels_N, layer = label_states(model, inputs, labels_BT)
        hard_N = None if hard_BT is None else hard_BT[labelled_BT]
        rows, vocabulary = self._row_loss(batch, labelled_BT, layer, labels_N, hard_N, theirs)
        total, far, nats = logit_loss(hidden_ND, layer, rows, vocabulary=vocabulary).unbind()
        weight = labelled_BT.sum()
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {
            "divergence": far,
            "nats_per_token": (nats, weight if hard_N is None else hard_N.sum()),
        }
        if self.features:
            matched_BT = labelled_BT if matched_BT is None else matched_BT
            found = self.features.losses(seen, their_seen, matched_BT)
            for name, value in found.items():
                total = total + self.features.weights[name] * value
                metrics[name] = value
        return Loss(total, weight, metrics)

    def same_proof(self, batch: Batch, labels_BT: Tensor) -> Proof:
        """Let the teacher learn from itself: there is nothing to learn."""
        name = "a student that is the teacher has no loss"
        if self.teacher is None:
            return Proof(name, None, "the teacher is not in memory")
        with torch.no_grad():
            states = TeacherStates(self.teacher, model_inputs(self.teacher, batch), labels_BT)
            teacher = states.logits(states.layer.vocabulary)
            rows = FromLogits(teacher, states.labels_N, None, self.weights)
            far = logit_loss(states.hidden_ND, states.layer, rows)[1] / max(1, len(states.labels_N))
        return Proof(name, abs(float(far)) < TOLERANCE, f"{float(far):.1e} nats of a token")

    def _row_loss(
        self,
        batch: Batch,
        labelled_BT: Tensor,
        layer: OutputLayer,
        labels_N: Tensor,
        hard_N: Tensor | None,
        theirs: TeacherStates | None,
    ) -> tuple[RowLoss, int]:
        """Return the loss of rows of logits, and how many tokens of the vocabulary it is shown."""
        if theirs is not None:
            vocabulary = shared_vocabulary(layer, theirs.layer)
            teacher = theirs.logits(vocabulary)
            return FromLogits(teacher, labels_N, hard_N, self.weights), vocabulary
        ids_NK = batch[IDS][labelled_BT]
        kept_NB = torch.cat([batch[LOG_PROBS], batch[REST][..., None]], -1)[labelled_BT]
        # float16 has moved each a little: together they are 1 again.
        log_p_NB = kept_NB.float().log_softmax(-1).clamp(min=LOWEST)
        return FromTop(ids_NK, log_p_NB, labels_N, hard_N, self.weights), layer.vocabulary

    def _watching(self, model: nn.Module, *, teacher: bool) -> AbstractContextManager[Seen]:
        if not self.features:
            return nullcontext(Seen())
        return self.features.watching(model, teacher=teacher)
