"""Direct preference optimisation: pairs, a reference, and one of many losses."""
# B rows, T tokens, N scored tokens, P pairs

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ontogeny.objective import Loss
from ontogeny.preflight import Proof
from ontogeny.vocabulary_loss import over_logits, state_log_probs
from ontogeny_plugins.preference.following import Follow
from ontogeny_plugins.preference.losses import OVER_BATCH, Pairs, divergence, mixed
from ontogeny_plugins.preference.pair_objective import PairObjective
from ontogeny_plugins.preference.reference import COLUMN, Reference
from ontogeny_plugins.preference.scoring import (
    answer_places,
    answer_sums,
    in_place,
    scored,
    token_log_probs,
    token_states,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import lightning as L
    from torch import Tensor, nn

    from ontogeny.companions import Companion, Companions
    from ontogeny.objective import Batch
    from ontogeny_plugins.preference import DPO

# Where policy and reference agree (β, ε, ...), of losses that do not depend on the lengths.
STARTS: dict[str, Callable[[DPO], float]] = {
    "sigmoid": lambda _: math.log(2),
    "robust": lambda _: math.log(2),
    "hinge": lambda _: 1.0,
    "ipo": lambda options: 1 / (4 * options.beta**2),
    "sigmoid_norm": lambda _: math.log(2),
    "nca": lambda _: 2 * math.log(2),
    "bco": lambda _: 2 * math.log(2),
    "apo_zero": lambda _: 1.0,
    "apo_down": lambda _: 1.0,
    "sppo_hard": lambda options: 1 / (2 * options.beta**2),
    "exo": lambda options: (
        math.log(0.5)
        - 0.5 * math.log(1 - options.label_smoothing)
        - 0.5 * math.log(options.label_smoothing)
    ),
    "discopop": lambda _: 0.5 * math.log(2) + 0.5,
    "aot": lambda _: math.log(2),
    "aot_unpaired": lambda _: math.log(2),
}
TOLERANCE = 1e-3  # of the loss at step 0: the reference may have been read in bf16


class DPOObjective(PairObjective):
    """Losses of log-ratios between the model and its reference."""

    def __init__(self, config: DPO) -> None:
        super().__init__(share_prompt=config.share_prompt)
        self.config = config
        self.reference = Reference(config.reference)
        self.sync_every, self.sync_share = config.sync_every, config.sync_share
        sorts = OVER_BATCH & {config.loss, *config.mix}
        self.rows_are_independent = not sorts  # type: ignore[misc]  # by its options

    def begin(self, companions: Companions) -> None:
        """Take the reference."""
        super().begin(companions)
        self.reference.begin(companions)

    def annotator(self) -> Companion | None:
        """Return the reference where it reads all pairs once."""
        return self.reference.annotator()

    def annotate(self, model: nn.Module, batch: Batch) -> Batch:
        """Return the reference's log p of every scored token: [B, T]."""
        return {COLUMN: in_place(token_log_probs(model, batch), batch)}

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the sum over pairs, with rewards β log π/π_ref and how often they agree."""
        log_probs_N, weights_P = self._policy(model, batch)
        pairs = self._pairs(log_probs_N, self._reference(model, batch, log_probs_N), batch)
        losses_P = mixed(pairs, self.config)
        if weights_P is not None:
            losses_P = losses_P * weights_P
        return Loss(losses_P.sum(), batch["pairs"].sum(), self._metrics(pairs))

    def callbacks(self, steps: int) -> Iterable[L.Callback]:
        """Return what lets a frozen reference follow the model, where that was chosen."""
        del steps
        if not self.sync_every:
            return []
        return [Follow(self.reference, self.sync_every, self.sync_share)]

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Add what the loss is where model and reference agree: a closed form."""
        yield from super().proofs(model, batch)
        yield self._start_proof(model, batch)

    def _policy(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return log p of the scored tokens, [N], and WPO's weights of the pairs, [P]."""
        if not self.config.wpo:
            return token_log_probs(model, batch), None
        hidden_ND, labels_N, layer = token_states(model, batch)
        log_probs_N = state_log_probs(hidden_ND, labels_N, layer)
        return log_probs_N, pair_weights(
            log_probs_N, over_logits(hidden_ND, layer, collision), batch
        )

    def _reference(self, model: nn.Module, batch: Batch, log_probs_N: Tensor) -> Tensor:
        if self.config.reference == "none":
            return torch.zeros_like(log_probs_N)
        return self.reference.log_probs(model, batch, token_log_probs)

    def _pairs(self, policy_N: Tensor, reference_N: Tensor, batch: Batch) -> Pairs:
        """Sum tokens to answers, with LD-DPO's weights where these are asked for."""
        lengths = answer_sums(torch.ones_like(policy_N), batch)
        if self.config.ld_alpha is not None:
            shorter_P = torch.minimum(*lengths)
            beyond_N = answer_places(batch) >= shorter_P[scored(batch, "pair_ids")]
            weights_N = torch.where(beyond_N, self.config.ld_alpha, 1.0)
            policy_N, reference_N = policy_N * weights_N, reference_N * weights_N
        policy, reference = answer_sums(policy_N, batch), answer_sums(reference_N, batch)
        chosen_P, rejected_P = (
            divergence(one - other, self.config.divergence, self.config.alpha)
            for one, other in zip(policy, reference, strict=True)
        )
        tokens = (lengths[0].clamp(min=1), lengths[1].clamp(min=1))
        return Pairs(chosen_P, rejected_P, policy, reference, tokens)

    def _metrics(self, pairs: Pairs) -> dict[str, Tensor]:
        beta = self.config.beta
        rewards = [
            beta * (one - other) for one, other in zip(pairs.policy, pairs.reference, strict=True)
        ]
        return {
            "reward_chosen": rewards[0].sum(),
            "reward_rejected": rewards[1].sum(),
            "reward_margin": (rewards[0] - rewards[1]).sum(),
            "reward_accuracy": (rewards[0] > rewards[1]).float().sum(),
            "nats_chosen": -pairs.policy[0].sum(),
            "nats_rejected": -pairs.policy[1].sum(),
        }

    def _start_proof(self, model: nn.Module, batch: Batch) -> Proof:
        name = "the loss starts at its closed form"
        terms = {self.config.loss: self.config.weight, **self.config.mix}
        if self.config.reference == "none" or "sft" in terms or self.config.wpo:
            return Proof(name, None, "this loss has none")
        expected = sum(weight * STARTS[term](self.config) for term, weight in terms.items())
        with torch.no_grad():
            log_probs_N = token_log_probs(model, batch)
            reference_N = self._reference(model, batch, log_probs_N)
            far = float((log_probs_N - reference_N).abs().max())
            pairs = self._pairs(log_probs_N, log_probs_N, batch)
            found = float(mixed(pairs, self.config).mean())
        evidence = f"{found:.6f}, expected {expected:.6f}; the reference is {far:.1e} away"
        return Proof(name, abs(found - expected) <= TOLERANCE * abs(expected), evidence)


def collision(logits_CV: Tensor) -> Tensor:
    """Return log Σ p² of each row: how likely two draws are the same token."""
    log_probs_CV = logits_CV.log_softmax(-1)
    return (2 * log_probs_CV).logsumexp(-1)


def pair_weights(log_probs_N: Tensor, collisions_N: Tensor, batch: Batch) -> Tensor:
    """Return WPO's weights: exp of mean log p less log Σ p², of both answers (Zhou et al. 2024)."""
    aligned_N = (log_probs_N - collisions_N).detach()
    means = [
        total / count.clamp(min=1)
        for total, count in zip(
            answer_sums(aligned_N, batch),
            answer_sums(torch.ones_like(aligned_N), batch),
            strict=True,
        )
    ]
    return (means[0] + means[1]).exp()
