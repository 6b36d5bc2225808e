"""PPO on small models: where it begins, what it shares, how it goes on, what it refuses."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from tests.plugins.reinforcement.conftest import quick

from ontogeny import ConfigError, compose, run
from ontogeny.compilation import has_compiler
from ontogeny.errors import DivergedError, RewardError
from ontogeny.objective import Batch
from ontogeny.testing.resume import Crash
from ontogeny.testing.trial import trial
from ontogeny_plugins.reinforcement.ppo import PPOObjective

LENGTH = ("reward=[length]", "reward.length.target=2")
LORA = ("adapter=[lora]", "adapter.lora.r=4")


def measured(result: Any, name: str) -> list[float]:
    """Return what the log says of every step."""
    file = result.folder / "stages" / "reinforcement" / "logs" / "metrics.csv"
    with file.open() as lines:
        return [float(row[f"train/{name}"]) for row in csv.DictReader(lines) if row["train/loss"]]


def first_update(source: Path, *overrides: str) -> tuple[PPOObjective, Any, list[Batch]]:
    """Return an objective, its model, and the batches of the first update."""
    with trial("objective", "ppo", "reinforcement", [f"model.source={source}", *overrides]) as made:
        objective = cast("PPOObjective", made.component)
        rows = [{"prompt": prompt} for prompt in ("a b", "c", "d e f g")]
        examples = made.annotated(objective, list(objective.prepare(rows, made.tokenizer)))
        model = made.complete(objective).model
        torch.manual_seed(0)
        updates = objective.experience(model, [objective.collate(examples)])
        return objective, model, next(iter(updates))


def test_the_first_ratio_is_1_and_the_divergence_0(ending_speaker: Path) -> None:
    objective, model, batches = first_update(ending_speaker, *LENGTH, "objective.max_tokens=5")
    for batch in batches:
        with torch.no_grad():
            loss = objective.loss(model, batch)
        tokens = float(loss.weight)
        assert float(loss.metrics["ratio"]) / tokens == pytest.approx(1, abs=1e-5)  # type: ignore[arg-type]
        assert float(loss.metrics["clipped"]) == 0  # type: ignore[arg-type]
        kl, answers = cast("tuple[torch.Tensor, torch.Tensor]", loss.metrics["kl"])
        assert float(kl / answers) == pytest.approx(0, abs=1e-5)


def test_packed_answers_and_answers_in_rows_of_their_own_have_the_same_loss(
    ending_speaker: Path,
) -> None:
    found = []
    for packing in ("true", "false"):
        more = ("objective.max_tokens=5", f"data.packing={packing}")
        objective, model, batches = first_update(ending_speaker, *LENGTH, *more)
        losses = [objective.loss(model, batch) for batch in batches]
        found.append(sum(float(loss.total.detach()) for loss in losses))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_every_reward_reaches_the_last_token_of_its_answer(ending_speaker: Path) -> None:
    more = (
        "objective.max_tokens=5",
        "objective.no_eos=ignore",
        "objective.whiten_advantages=false",
    )
    _, _, batches = first_update(
        ending_speaker, *LENGTH, *more, "objective.lam=1", "objective.gamma=1", "objective.kl=0"
    )
    for batch in batches:  # without discount, what is to come is the reward, at every token
        expected = batch["answer_reward"][batch["owners"]]
        assert torch.allclose(batch["returns"], expected, atol=1e-6)


def test_a_cut_answer_gets_what_no_eos_says(speaker: Path) -> None:
    found = {}
    for choice in ("replace", "subtract", "ignore"):
        more = ("objective.max_tokens=5", f"objective.no_eos={choice}", "objective.kl=0")
        _, _, batches = first_update(speaker, *LENGTH, *more, "objective.no_eos_reward=-3")
        found[choice] = batches[0]["answer_reward_with_kl"][0].item()
    assert found == pytest.approx({"replace": -3.0, "subtract": -4.5, "ignore": -1.5})


def test_one_model_with_adapters_computes_what_separate_models_do(ending_speaker: Path) -> None:
    """The value's adapter gets the weights that the separate model's adapter has."""
    shared, one, _ = first_update(ending_speaker, *LENGTH, *LORA, "objective.value=adapter")
    apart, other, batches = first_update(ending_speaker, *LENGTH, *LORA, "objective.value=separate")
    separate = dict(apart.values.module.named_parameters())
    with torch.no_grad():
        for parameter in [*separate.values(), *other.parameters()]:
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
        mine = dict(other.named_parameters())
        for name, parameter in one.named_parameters():
            source = separate if ".value." in name else mine
            parameter.copy_(source[name.replace(".value.", ".default.")])
        shared.values.module.weight.copy_(separate["score.weight"][0])  # type: ignore[operator, union-attr]
        shared.values.module.bias.copy_(separate["score.bias"])  # type: ignore[operator, union-attr]
    losses = [
        shared.loss(one, batches[0]),
        apart.loss(other, batches[0]),
    ]
    totals = [float(loss.total.detach()) for loss in losses]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)
    for loss in losses:
        loss.total.backward()  # type: ignore[no-untyped-call]
    theirs = {**{f"p.{name}": each for name, each in other.named_parameters()}}
    theirs |= {f"v.{name}": each for name, each in separate.items()}
    compared = 0
    for name, parameter in one.named_parameters():
        if parameter.grad is None:
            continue
        role = "v." if ".value." in name else "p."
        expected = theirs[role + name.replace(".value.", ".default.")].grad
        assert expected is not None
        assert torch.allclose(parameter.grad, expected, atol=1e-5 * float(expected.abs().max() + 1))
        compared += 1
    assert compared == 2 * sum(each.requires_grad for each in other.parameters())


def test_an_adapter_switched_off_is_the_reference(ending_speaker: Path) -> None:
    objective, model, batches = first_update(ending_speaker, *LENGTH, *LORA)
    assert objective.reference.kind == "adapter_off"
    before = objective.reference.log_probs(model, batches[0], objective.scores)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    after = objective.reference.log_probs(model, batches[0], objective.scores)
    assert torch.equal(before, after)
    assert not torch.allclose(objective.scores(model, batches[0]), after)


@pytest.mark.parametrize("value", ["separate", "shared", "adapter"])
def test_a_run_that_was_cut_off_ends_like_one_that_was_not(
    ending_speaker: Path, prompts: Path, value: str, tmp_path: Path
) -> None:
    more = [
        *LENGTH,
        f"objective.value={value}",
        "objective.kl_target=0.1",
        "objective.kl_horizon=50",
    ]
    more += LORA if value == "adapter" else ()
    overrides = quick(ending_speaker, prompts, *more, "trainer.save_every_steps=1")
    whole = run(compose(overrides), tmp_path / "whole")
    # Another seed of the store: the whole run's result must not be found.
    again = [*overrides, "resume=auto", "++callbacks.crash._target_=ontogeny.testing.CrashAt"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ONTOGENY_HOME", str(tmp_path / "other"))
        with pytest.raises(Crash):
            run(compose([*again, "++callbacks.crash.step=2"]), tmp_path / "cut")
        result = run(compose(overrides), tmp_path / "on")
    weights = [
        load_file(cast("Path", each.checkpoint) / "model.safetensors") for each in (whole, result)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert measured(whole, "kl_beta") == measured(result, "kl_beta")
    assert len(set(measured(whole, "kl_beta"))) > 1
    samples = [
        (each.folder / "stages/reinforcement/samples.json").read_text() for each in (whole, result)
    ]
    assert samples[0] == samples[1]


def test_a_length_that_pays_is_learnt(ending_speaker: Path, prompts: Path) -> None:
    more = [*LENGTH, "trainer.max_steps=25", "optimizer.lr=5e-3", "objective.no_eos=ignore"]
    more += ["objective.kl=0.01", "objective.max_kl=null"]
    result = run(compose(quick(ending_speaker, prompts, *more)))
    rewards = measured(result, "reward")
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1
    assert result.metrics["reinforcement"]["rollouts"]["reward"].value > rewards[0]


def test_what_is_trained_beside_stays_out_of_the_checkpoint(
    ending_speaker: Path, prompts: Path
) -> None:
    result = run(compose(quick(ending_speaker, prompts, *LENGTH, *LORA)))
    weights = load_file(cast("Path", result.checkpoint) / "model.safetensors")
    assert {*weights} == {*load_file(ending_speaker / "model.safetensors")}


def test_the_table_of_samples_has_rewards_of_the_first_and_the_last_step(
    ending_speaker: Path, prompts: Path
) -> None:
    result = run(compose(quick(ending_speaker, prompts, *LENGTH)))
    rows = json.loads((result.folder / "stages/reinforcement/samples.json").read_text())
    assert {row["step"] for row in rows} == {0, 2}
    assert all(math.isfinite(row["reward"]) and row["prompt"] for row in rows)


def test_memory_is_told_of_every_role(ending_speaker: Path, prompts: Path) -> None:
    said: list[str] = []
    run(compose(quick(ending_speaker, prompts, *LENGTH, *LORA)), announce=said.append)
    lines = [line for line in said if "memory:" in line]
    roles = ("policy", "reference", "value", "reward length", "in all")
    assert all(any(role in line for line in lines) for role in roles)
    assert "the policy without its adapters" in "\n".join(lines)


@pytest.mark.usefixtures("worth")
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_reward_that_is_no_number_ends_the_run_with_its_name(
    speaker: Path, prompts: Path, value: str
) -> None:
    overrides = quick(speaker, prompts, "reward=[broken]", f"reward.broken.value={value}")
    with pytest.raises(RewardError, match=r"reward\.broken is .* for 2 of 2 answers"):
        run(compose(overrides))


@pytest.mark.usefixtures("worth")
def test_several_rewards_are_added_by_their_weights(speaker: Path, prompts: Path) -> None:
    more = ["reward=[table,length]", "reward.length.weight=0.5", "reward.length.target=2"]
    result = run(compose(quick(speaker, prompts, *more)))
    table, length, both = (
        measured(result, name)[0] for name in ("reward_table", "reward_length", "reward")
    )
    assert both == pytest.approx(table + 0.5 * length, rel=1e-5)


def test_a_model_that_runs_away_is_stopped(ending_speaker: Path, prompts: Path) -> None:
    more = ["objective.max_kl=0.001", "optimizer.lr=5e-2", "objective.kl=0"]
    with pytest.raises(DivergedError, match=r"objective\.max_kl=0\.001"):
        run(compose(quick(ending_speaker, prompts, *LENGTH, *more)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["reward=[]"], "no reward is chosen: set 'reward=.*length"),
        ([*LENGTH, "data.max_length=126"], "more than the context of the model: 128"),
        ([*LENGTH, "objective.value=adapter"], "without an adapter: choose one with 'adapter="),
        ([*LENGTH, "objective.reference=adapter_off"], "no adapter to switch off"),
        (["reward=[exact]", "reward.exact.column=truth"], "'truth', which a row lacks"),
        ([*LENGTH, "objective.engine=vllm"], "which is not installed"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(
    ending_speaker: Path, prompts: Path, more: list[str], message: str
) -> None:
    with pytest.raises((ConfigError, Exception), match=message):
        run(compose(quick(ending_speaker, prompts, *more)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("objective.clip=2", "expected a number from 0 to 1"),
        ("objective.temperature=0", "expected more than 0"),
        ("objective.epochs=0", "expected 1 or more"),
        ("objective.value=none", "expected one of auto, shared"),
        ("objective=rloo objective.samples=1", "expected 2 or more"),
        ("objective=grpo objective.average=mean", "expected one of grpo, dapo"),
        ("objective.kl=0 objective.kl_target=6", "from which nothing is steered"),
    ],
)
def test_a_wrong_option_is_told_with_its_key(options: str, message: str) -> None:
    overrides = ["stage=reinforcement", "model.source=x", "data.path=y", *LENGTH]
    with pytest.raises(ConfigError, match=f"objective.*{message}"):
        compose([*overrides, *options.split()])


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_compiled_models_take_the_updates_of_plain_ones_at_every_length(
    ending_speaker: Path, prompts: Path, tmp_path: Path
) -> None:
    logs = []
    for compiled in ("false", "true"):
        overrides = quick(ending_speaker, prompts, *LENGTH, "objective.value=separate")
        torch.compiler.reset()
        result = run(compose([*overrides, f"trainer.compile={compiled}"]), tmp_path / compiled)
        logs.append(
            [measured(result, name) for name in ("loss", "value_loss", "kl", "gradient_norm")]
        )
    for plain, fast in zip(*logs, strict=True):
        assert fast == pytest.approx(plain, rel=1e-3, abs=1e-5)
