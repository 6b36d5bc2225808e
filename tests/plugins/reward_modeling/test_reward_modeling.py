"""Reward models: where they begin, what they read, what they learn, and what is said of them."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from ontogeny import compose, run
from ontogeny.adapter import Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.errors import ConfigError, RowError
from ontogeny.evaluator import EvaluationData
from ontogeny.objective import Row
from ontogeny.options import Data, Model
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.heads import Reward
from ontogeny_plugins.heads.reward import RewardHead
from ontogeny_plugins.reward_modeling import BradleyTerry, RewardMetrics
from ontogeny_plugins.reward_modeling.evaluator import (
    RewardEvaluator,
    calibration_error,
    rank_correlation,
)
from ontogeny_plugins.reward_modeling.objective import BradleyTerryObjective
from ontogeny_plugins.reward_modeling.scoring import rewards
from ontogeny_plugins.reward_modeling.stage import separate_padding

ROWS: list[Row] = [
    {"prompt": "What is a river? ", "chosen": "Water that runs.", "rejected": "A stone."},
    {"prompt": "Why? ", "chosen": "So.", "rejected": "Because it was so in the beginning."},
]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}


def rows_of(trainer: Any) -> Any:
    """Return the rows that a trainer of TRL has prepared."""
    return trainer.train_dataset


def bare_tokenizer() -> Any:
    made = byte_tokenizer()
    made.chat_template = None
    return made


def decoder(tokenizer: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=len(tokenizer)))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a checkpoint of a small decoder that pads with its end of text."""
    tokenizer = bare_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    folder = tmp_path / "base"
    decoder(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def reward_model(model: Model, tokenizer: Any, **options: Any) -> PreTrainedModel:
    torch.manual_seed(1)
    return RewardHead(Reward(**options)).load(model, tokenizer).eval()


def batch_of(objective: BradleyTerryObjective, rows: list[Row], tokenizer: Any) -> Any:
    return objective.collate(list(objective.prepare(rows, tokenizer)))


def test_a_new_head_starts_at_ln_two(source: Path) -> None:
    model = reward_model(Model(source=str(source)), bare_tokenizer())
    objective = BradleyTerryObjective(BradleyTerry())
    batch = batch_of(objective, ROWS, bare_tokenizer())
    with torch.no_grad():
        loss = objective.loss(model, batch)
    assert float(loss.total / loss.weight) == pytest.approx(math.log(2), abs=1e-7)
    assert [proof.holds for proof in objective.proofs(model, batch)] == [True]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_loss_is_the_formula_on_rewards_of_the_last_or_first_token(family: str) -> None:
    tokenizer = bare_tokenizer()
    config = {**SIZES, "model_type": family}
    model = reward_model(Model(config=config), tokenizer, zero=False)
    objective = BradleyTerryObjective(BradleyTerry(centre=0.3))
    rows: list[Row] = [{**ROWS[0], "margin": 0.7}, {**ROWS[1], "margin": -1.5}]
    with torch.no_grad():
        loss = objective.loss(model, batch_of(objective, rows, tokenizer))
    expected = 0.0
    for row in rows:
        found = []
        for side in ("chosen", "rejected"):
            ids = tokenizer(f"{row['prompt']}{row[side]}{tokenizer.eos_token}").input_ids
            with torch.no_grad():
                found.append(float(model(input_ids=torch.tensor([ids])).logits))
        difference = found[0] - found[1] - float(row["margin"])  # type: ignore[arg-type]
        expected += math.log(1 + math.exp(-difference)) + 0.3 * (found[0] + found[1]) ** 2
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)
    assert float(loss.weight) == 2


def test_padding_that_ends_answers_is_replaced(source: Path) -> None:
    tokenizer = bare_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert "padding is <|padding|>" in separate_padding(tokenizer)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert separate_padding(tokenizer) == ""


def test_a_reward_is_read_at_the_end_of_the_answer_whatever_pads_the_batch(source: Path) -> None:
    tokenizer = bare_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    separate_padding(tokenizer)
    model = reward_model(Model(source=str(source)), tokenizer, zero=False)
    objective = BradleyTerryObjective(BradleyTerry())
    together = batch_of(objective, ROWS, tokenizer)
    with torch.no_grad():
        found = rewards(model, together)
        alone = torch.cat([rewards(model, batch_of(objective, [row], tokenizer)) for row in ROWS])
    assert torch.allclose(found, alone, atol=1e-5)
    ends = [tokenizer(f"{row['prompt']}{row['chosen']}") for row in ROWS]
    for index, encoded in enumerate(ends):
        ids = torch.tensor([[*encoded.input_ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            assert float(model(input_ids=ids).logits) == pytest.approx(
                float(found[2 * index]), 1e-4
            )


def test_a_planted_reward_is_learnt_and_opens_in_transformers(
    source: Path, home: Path, tmp_path: Path
) -> None:
    """Answers with more of the letter e are better: no other thing tells them apart."""
    generator = np.random.default_rng(0)

    def answer(share: float) -> str:
        return "".join("e" if draw < share else "t" for draw in generator.random(12))

    pairs = [
        {"prompt": f"Write {number}: ", "chosen": answer(0.8), "rejected": answer(0.2)}
        for number in range(300)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    result = run(
        compose(
            [
                "stage=reward_modeling",
                f"model.source={source}",
                f"data.path={file}",
                "data.max_length=64",
                "data.batch_size=16",
                "data.validation.share=0.2",
                "trainer.max_steps=60",
                "trainer.accelerator=cpu",
                "optimizer.lr=3e-3",
                "precision=32-true",
            ]
        )
    )
    metrics = result.metrics["reward_modeling"]["reward"]
    assert metrics["reward_accuracy"].value > 0.95
    assert metrics["reward_accuracy"].low > 0.8  # type: ignore[operator]
    assert set(metrics) == {
        "reward_accuracy",
        "margin",
        "calibration_error",
        "length_correlation",
    }
    opened = AutoModelForSequenceClassification.from_pretrained(result.checkpoint).eval()
    assert opened.config.num_labels == 1
    ours = RewardHead(Reward()).load(Model(source=str(result.checkpoint)), bare_tokenizer()).eval()
    ids = torch.tensor([[40, 50, 60, 70]])
    with torch.no_grad():
        assert torch.equal(opened(input_ids=ids).logits, ours(input_ids=ids).logits)


def test_calibration_is_the_gap_between_sureness_and_success() -> None:
    assert calibration_error(np.array([1e9, 1e9, -1e9, -1e9]), 10) == pytest.approx(0.5)
    assert calibration_error(np.array([1e9] * 3), 10) == pytest.approx(0.0)
    generator = np.random.default_rng(0)
    margins = generator.normal(0, 2, 20_000)
    right = generator.random(20_000) < 1 / (1 + np.exp(-np.abs(margins)))
    calibrated = np.where(right, np.abs(margins), -np.abs(margins))
    assert calibration_error(calibrated, 10) < 0.02


def test_the_rank_correlation_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(1)
    left, right = generator.normal(size=50), generator.integers(0, 8, 50)
    expected = float(stats.spearmanr(left, right).statistic)
    assert rank_correlation(left, right) == pytest.approx(expected)
    assert rank_correlation(left, np.zeros(50)) == 0.0


def test_a_model_without_a_reward_is_told_before_the_training(source: Path) -> None:
    tokenizer = bare_tokenizer()
    bundle = Bundle(decoder(tokenizer), tokenizer, RewardHead(Reward()))
    with pytest.raises(ConfigError, match="gives no reward: this goes with head=reward"):
        RewardEvaluator(RewardMetrics()).check(bundle, EvaluationData({"data": ROWS}, Data()))


def test_a_margin_that_is_no_number_is_refused() -> None:
    with pytest.raises(RowError) as error:
        list(
            BradleyTerryObjective(BradleyTerry()).prepare(
                [{**ROWS[0], "margin": "large"}], bare_tokenizer()
            )
        )
    assert error.value.reason == "margin is 'large'; expected a number"


def test_an_encoder_gives_a_reward_too() -> None:
    tokenizer = bare_tokenizer()
    model = reward_model(Model(config={**SIZES, "model_type": "bert"}), tokenizer)
    objective = BradleyTerryObjective(BradleyTerry())
    loss = objective.loss(model, batch_of(objective, ROWS, tokenizer))
    assert float(loss.total.detach()) == pytest.approx(2 * math.log(2))


def test_a_saved_reward_model_gives_the_same_rewards(tmp_path: Path) -> None:
    tokenizer = bare_tokenizer()
    head = RewardHead(Reward(zero=False))
    model = head.load(Model(config={**SIZES, "model_type": "llama"}), tokenizer).eval()
    save_checkpoint(Bundle(model, tokenizer, head), tmp_path / "saved", {})
    again = reward_model(Model(source=str(tmp_path / "saved")), tokenizer)
    objective = BradleyTerryObjective(BradleyTerry())
    batch = batch_of(objective, ROWS, tokenizer)
    with torch.no_grad():
        assert torch.equal(rewards(model, batch), rewards(again, batch))
        assert rewards(again, batch).abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("centre", [0.0, 0.05])
def test_the_loss_is_that_of_trl(centre: float, tmp_path: Path, source: Path) -> None:
    tokenizer = bare_tokenizer()
    model = reward_model(Model(source=str(source)), tokenizer, zero=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and its dependencies
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer  # type: ignore[attr-defined]

        arguments = RewardConfig(
            str(tmp_path / "trl"),
            per_device_train_batch_size=len(ROWS),
            center_rewards_coefficient=centre or None,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        trainer = RewardTrainer(
            model,
            arguments,
            train_dataset=Dataset.from_list([dict(row) for row in ROWS]),
            processing_class=tokenizer,
        )
        given = trainer.data_collator([rows_of(trainer)[row] for row in range(len(ROWS))])
        with torch.no_grad():
            expected = float(trainer.compute_loss(trainer.model.eval(), dict(given)))
    objective = BradleyTerryObjective(BradleyTerry(centre=centre))
    with torch.no_grad():
        loss = objective.loss(model.eval(), batch_of(objective, ROWS, tokenizer))
    assert float(loss.total / loss.weight) == pytest.approx(expected, rel=1e-5)
