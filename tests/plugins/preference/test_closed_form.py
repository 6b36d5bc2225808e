"""On answers that can be counted: where DPO ends is known in closed form, and IPO stays bounded.

The optimum of a reward r with a KL penalty is π*(y) ∝ π_ref(y) exp(r(y) / β); DPO on labels drawn
by Bradley-Terry from r has the same one (Rafailov et al. 2023, section 4). No labels are drawn:
each pair counts in both orders, by the probability of either.
"""
# P pairs in both orders, Y answers

from __future__ import annotations

from itertools import permutations
from typing import Any

import torch
from tests.plugins.preference.conftest import batch_of, small_llama
from torch import Tensor

from ontogeny.objective import Batch, Row
from ontogeny_plugins.preference import DPO
from ontogeny_plugins.preference.dpo import DPOObjective
from ontogeny_plugins.preference.losses import Pairs, mixed
from ontogeny_plugins.preference.scoring import answer_sums, token_log_probs

BETA = 0.5
ANSWERS = "abcdefgh"
ORDERS = list(permutations(range(len(ANSWERS)), 2))


def pair_batch(objective: DPOObjective, tokenizer: Any, reference: Any) -> Batch:
    rows: list[Row] = [
        {"prompt": "Which? ", "chosen": ANSWERS[one], "rejected": ANSWERS[other]}
        for one, other in ORDERS
    ]
    return batch_of(objective, rows, tokenizer, reference)


def answer_log_probs(model: Any, batch: Batch) -> Tensor:
    """Return log p of each answer: [Y]."""
    with torch.no_grad():
        chosen_P, _ = answer_sums(token_log_probs(model, batch), batch)
    first = [next(p for p, (one, _) in enumerate(ORDERS) if one == y) for y in range(len(ANSWERS))]
    return chosen_P[first].double()


def trained(
    objective: DPOObjective, model: Any, batch: Batch, weights_P: Tensor, steps: int
) -> list[float]:
    """Minimise the expected loss; return the largest log-ratio after each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    largest = []
    for _ in range(steps):
        pairs: Pairs = objective._pairs(
            token_log_probs(model, batch), objective._reference(model, batch, weights_P), batch
        )
        loss = (mixed(pairs, objective.config) * weights_P).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        largest.append(float(pairs.difference.detach().abs().max()))
    return largest


def test_dpo_ends_where_the_reward_with_a_kl_penalty_has_its_optimum(tokenizer: Any) -> None:
    torch.manual_seed(0)
    rewards_Y = torch.randn(len(ANSWERS), dtype=torch.float64)
    reference, model = small_llama(2), small_llama(2)
    objective = DPOObjective(DPO(beta=BETA))
    batch = pair_batch(objective, tokenizer, reference)
    differences_P = torch.tensor([rewards_Y[one] - rewards_Y[other] for one, other in ORDERS])
    trained(objective, model, batch, torch.sigmoid(differences_P).float(), steps=300)
    best_Y = (answer_log_probs(reference, batch) + rewards_Y / BETA).log_softmax(0)
    found_Y = answer_log_probs(model, batch).log_softmax(0)
    before_Y = answer_log_probs(reference, batch).log_softmax(0)
    assert float((before_Y.exp() * (before_Y - best_Y)).sum()) > 0.3
    assert float((found_Y.exp() * (found_Y - best_Y)).sum()) < 1e-3


def test_of_preferences_without_a_doubt_ipo_stays_bounded_and_dpo_does_not(tokenizer: Any) -> None:
    certain_P = torch.tensor([float(one < other) for one, other in ORDERS])
    ends = {}
    for name in ("ipo", "sigmoid"):
        model, reference = small_llama(2), small_llama(2)
        objective = DPOObjective(DPO(beta=BETA, loss=name, ipo="summed"))
        batch = pair_batch(objective, tokenizer, reference)
        ends[name] = [
            trained(objective, model, batch, certain_P, steps)[-1] for steps in (100, 300)
        ]
    assert ends["sigmoid"][1] > 1.3 * ends["sigmoid"][0] > 10
    assert max(ends["ipo"]) < 2 / BETA
