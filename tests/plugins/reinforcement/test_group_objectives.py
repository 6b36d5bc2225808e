"""RLOO and GRPO: what they weigh, against sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.plugins.reinforcement.conftest import quick
from torch import Tensor

from ontogeny import compose, run
from ontogeny.objective import Batch
from ontogeny.testing.trial import trial
from ontogeny_plugins.reinforcement.objective import RolloutObjective

LENGTH = ("reward=[length]", "reward.length.target=2", "objective.max_tokens=5")


def first_update(source: Path, name: str, *more: str) -> tuple[RolloutObjective, Any, list[Batch]]:
    overrides = [f"model.source={source}", *LENGTH, *more]
    with trial("objective", name, "reinforcement", overrides) as made:
        objective = cast("RolloutObjective", made.component)
        rows = [{"prompt": prompt} for prompt in ("a b", "c c c", "d e f g")]
        examples = made.annotated(objective, list(objective.prepare(rows, made.tokenizer)))
        model = made.complete(objective).model
        torch.manual_seed(0)
        return (
            objective,
            model,
            next(iter(objective.experience(model, [objective.collate(examples)]))),
        )


def mean_loss(objective: RolloutObjective, model: Any, batches: list[Batch]) -> Tensor:
    losses = [objective.loss(model, batch) for batch in batches]
    return sum(loss.total for loss in losses) / sum(loss.weight for loss in losses)  # type: ignore[return-value]


def moved(model: Any) -> None:
    """Take a step, so that ratios are no longer 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))


@pytest.mark.parametrize("name", ["grpo", "rloo"])
@pytest.mark.parametrize("packing", ["true", "false"])
def test_a_prompt_read_once_changes_neither_loss_nor_gradient(
    ending_speaker: Path, name: str, packing: str
) -> None:
    found = []
    for share in ("true", "false"):
        more = (f"objective.share_prompt={share}", f"data.packing={packing}")
        objective, model, batches = first_update(ending_speaker, name, *more, "objective.samples=4")
        moved(model)
        loss = mean_loss(objective, model, batches)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.stack([each.grad.norm() for each in model.parameters()]).norm()
        found.append(
            (loss.item(), norm.item(), sum(len(each["input_ids"].view(-1)) for each in batches))
        )
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5, abs=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)
    if packing == "true":
        assert found[0][2] < found[1][2]


def by_answer(batch: Batch, values: Tensor) -> list[Tensor]:
    return [values[batch["owners"] == answer] for answer in range(len(batch["answers"]))]


def test_averages_of_tokens_are_those_of_their_papers(ending_speaker: Path) -> None:
    more = ("objective.samples=3", "objective.kl=0", "objective.microbatch_tokens=100000")
    for average in ("grpo", "dapo", "dr_grpo"):
        objective, model, batches = first_update(
            ending_speaker, "grpo", *more, f"objective.average={average}", "objective.scale=none"
        )
        moved(model)
        (batch,) = batches
        with torch.no_grad():
            ratios = (objective.scores(model, batch) - batch["old_log_probs"]).exp()
            advantages = batch["advantages"]
            losses = -torch.minimum(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages)
            parts = by_answer(batch, losses)
            expected = {
                "grpo": torch.stack([part.mean() for part in parts]).mean(),
                "dapo": losses.mean(),
                "dr_grpo": torch.stack([part.sum() / 5 for part in parts]).mean(),
            }[average]
            assert mean_loss(objective, model, batches).item() == pytest.approx(
                expected.item(), rel=1e-4
            )


def test_a_sequence_ratio_is_the_geometric_mean_of_its_tokens(ending_speaker: Path) -> None:
    more = ("objective.importance=sequence", "objective.samples=3", "objective.kl=0")
    objective, model, batches = first_update(ending_speaker, "grpo", *more)
    moved(model)
    batch = batches[0]
    with torch.no_grad():
        log_ratios = objective.scores(model, batch) - batch["old_log_probs"]
        ratios = torch.stack([part.mean().exp() for part in by_answer(batch, log_ratios)])
        advantages = torch.stack([part[0] for part in by_answer(batch, batch["advantages"])])
        losses = -torch.minimum(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages)
        loss = objective.loss(model, batch)
    assert loss.total.item() == pytest.approx(losses.sum().item(), rel=1e-4)


def test_answers_that_were_cut_teach_nothing_where_that_is_asked(speaker: Path) -> None:
    objective, model, batches = first_update(
        speaker, "grpo", "objective=dapo", "objective.samples=3"
    )
    assert mean_loss(objective, model, batches).isnan() or all(
        objective.loss(model, batch).total == 0 for batch in batches
    )


def test_rloo_takes_whole_answers_with_the_others_as_baseline(ending_speaker: Path) -> None:
    more = ("objective.samples=3", "objective.kl=0.5", "objective.no_eos=ignore")
    objective, model, batches = first_update(ending_speaker, "rloo", *more)
    for batch in batches:
        rewards = batch["answer_reward"] - 0.5 * batch["answer_kl"]
        groups = rewards.view(-1, 3)
        others = (groups.sum(1, keepdim=True) - groups) / 2
        expected = (groups - others).flatten()
        found = torch.stack([part[0] for part in by_answer(batch, batch["advantages"])])
        assert torch.allclose(found, expected, atol=1e-6)
        with torch.no_grad():
            loss = objective.loss(model, batch)
        assert loss.total.item() == pytest.approx(-expected.sum().item(), abs=1e-4)


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo", "gspo", "rloo"])
def test_every_variant_trains(ending_speaker: Path, prompts: Path, name: str) -> None:
    overrides = quick(ending_speaker, prompts, *LENGTH, f"objective={name}", "objective.samples=2")
    result = run(compose([*overrides, "trainer.max_steps=2"]))
    assert result.checkpoint is not None
    assert result.metrics["reinforcement"]["rollouts"]["reward"].value <= 0
