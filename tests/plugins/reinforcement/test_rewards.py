"""Reward models and plain rewards: what they read, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.reinforcement.conftest import WORDS, quick, words_llama, write_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForCausalLM

from ontogeny import ConfigError, compose, run
from ontogeny.errors import DataError, RewardError
from ontogeny.reward import Completion, Rewards
from ontogeny.testing import byte_tokenizer, check_reward
from ontogeny_plugins.reinforcement import ExactReward, LengthReward, PatternReward
from ontogeny_plugins.reinforcement.rewards import Exact, Length, Pattern


def completion(text: str, **row: Any) -> Completion:
    return Completion({"prompt": "?", **row}, [1], text, list(range(len(text))), ended=True)


@pytest.fixture
def judge(ending_speaker: Path, tmp_path: Path) -> Path:
    """Return a reward model with the words of the speaker, that likes some of them."""
    return reward_model(ending_speaker, tmp_path / "judge.jsonl", "adapter=[]")


def reward_model(source: Path, file: Path, *more: str) -> Path:
    """Train a reward model for a few steps: answers with b are preferred."""
    rows = [
        {"prompt": " ".join(WORDS[: 1 + place % 4]) + " ", "chosen": "b b", "rejected": word}
        for place, word in enumerate(["a c", "d", "e f", "g g"] * 4)
    ]
    result = run(
        compose(
            [
                "stage=reward_modeling",
                f"model.source={source}",
                f"data.path={write_rows(file, rows)}",
                "data.validation.share=0",
                "data.batch_size=4",
                "trainer.max_steps=20",
                "trainer.max_epochs=null",
                "trainer.progress=false",
                "trainer.accelerator=cpu",
                "data.max_length=32",
                "optimizer.lr=1e-2",
                "precision=32-true",
                "evaluator=[]",
                *more,
            ]
        )
    )
    assert result.checkpoint is not None
    return result.checkpoint


def test_a_plain_reward_says_what_its_name_says() -> None:
    length = Length(LengthReward(target=4))
    assert length.score([completion("abcd"), completion("ab"), completion("")]) == [0, -0.5, -1]
    pattern = Pattern(PatternReward(pattern=r"\bowl\b"))
    assert pattern.score([completion("an owl."), completion("Owls")]) == [1, 0]
    exact = Exact(ExactReward())
    assert exact.score([completion(" Four ", answer="four"), completion("5", answer=4)]) == [1, 0]
    extracting = Exact(ExactReward(extract=r"= (\d+)"))
    assert extracting.score([completion("2+2 = 4, so", answer=4), completion("4", answer=4)]) == [
        1,
        0,
    ]


def test_an_exact_reward_needs_its_column_and_a_group_to_extract() -> None:
    with pytest.raises(DataError, match="which a row lacks; it has prompt"):
        Exact(ExactReward()).score([completion("4")])
    with pytest.raises(ConfigError, match="has no group"):
        Exact(ExactReward(extract=r"\d+"))
    with pytest.raises(ConfigError, match="no regular expression"):
        Pattern(PatternReward(pattern="("))


def test_a_reward_that_is_not_a_number_is_named_with_its_answer() -> None:
    with pytest.raises(RewardError, match="mine is nan for 1 of 2 answers, such as 'b'"):
        Rewards.checked("mine", [1.0, float("nan")], [completion("a"), completion("b")])
    with pytest.raises(RewardError, match="one number for each"):
        Rewards.checked("mine", [1.0], [completion("a"), completion("b")])


def test_a_reward_model_keeps_the_contract(judge: Path) -> None:
    options = ["reward=[checkpoint]", f"reward.checkpoint.source={judge}"]
    check_reward(
        "checkpoint",
        rows=[{"prompt": "a b "}, {"prompt": "c "}],
        overrides=[*options, "reward.checkpoint.as_text=true"],
    )


def test_a_reward_is_what_transformers_reads_at_the_last_token(
    judge: Path, ending_speaker: Path, prompts: Path
) -> None:
    options = ["reward=[checkpoint]", f"reward.checkpoint.source={judge}"]
    config = compose(quick(ending_speaker, prompts, *options))
    rewards = _begun(config, ending_speaker)
    answers = [
        Completion({"prompt": "a b"}, [0, 1], "b b", [1, 1, 7], ended=True),
        Completion({"prompt": "c"}, [2], "d", [3], ended=False),
    ]
    model = AutoModelForSequenceClassification.from_pretrained(judge)
    expected = []
    for each in answers:
        ids = torch.tensor([[*each.prompt_tokens, *each.tokens]])
        with torch.no_grad():
            expected.append(model(ids).logits.item())
    assert rewards.score(answers).total_N.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_model_of_another_vocabulary_is_refused_without_text_and_reads_text_with_it(
    ending_speaker: Path, prompts: Path, tmp_path: Path
) -> None:
    other = tmp_path / "bytes"
    tokenizer = byte_tokenizer()
    words_llama(1, vocab_size=len(tokenizer), pad_token_id=0).save_pretrained(other)
    tokenizer.save_pretrained(other)
    judge = reward_model(other, tmp_path / "pairs.jsonl")
    options = ["reward=[checkpoint]", f"reward.checkpoint.source={judge}"]
    overrides = quick(ending_speaker, prompts, *options)
    with pytest.raises(ConfigError, match=r"set reward\.checkpoint\.as_text=true"):
        run(compose(overrides))
    result = run(compose([*overrides, "reward.checkpoint.as_text=true"]))
    assert result.checkpoint is not None


def test_a_reward_on_the_policys_own_weights_equals_one_on_weights_of_its_own(
    ending_speaker: Path, prompts: Path, tmp_path: Path
) -> None:
    """An adapter folder on the same base, once as a second adapter, once as a model."""
    lora = ["adapter=[lora]", "adapter.lora.r=4", "adapter.lora.merge=false"]
    judge = reward_model(ending_speaker, tmp_path / "pairs.jsonl", *lora)
    found = []
    for share in ("true", "false"):
        options = ["reward=[checkpoint]", f"reward.checkpoint.source={judge}", "adapter=[lora]"]
        options += [f"reward.checkpoint.share_model={share}", "objective.kl=0"]
        result = run(compose(quick(ending_speaker, prompts, *options)))
        model = LlamaForCausalLM.from_pretrained(result.checkpoint)
        found.append([parameter.detach() for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_whole_model_cannot_share_the_policys_weights(
    judge: Path, ending_speaker: Path, prompts: Path
) -> None:
    options = ["reward=[checkpoint]", f"reward.checkpoint.source={judge}", "adapter=[lora]"]
    with pytest.raises(ConfigError, match="it is no adapter folder"):
        run(compose(quick(ending_speaker, prompts, *options, "reward.checkpoint.share_model=true")))


def test_a_value_model_may_begin_as_the_reward_model(
    judge: Path, ending_speaker: Path, prompts: Path
) -> None:
    options = ["reward=[checkpoint]", f"reward.checkpoint.source={judge}"]
    options += ["objective.value=separate", f"objective.value_source={judge}"]
    result = run(compose(quick(ending_speaker, prompts, *options)))
    assert result.checkpoint is not None


def _begun(config: Any, source: Path) -> Rewards:
    from ontogeny.companions import Companions
    from ontogeny.plugins import registry
    from ontogeny.store import Store, home

    stage = next(iter(config.stages.values()))
    tokenizer = AutoTokenizer.from_pretrained(source)
    head: Any = registry().build(stage.head)
    device = torch.device("cpu")
    companions = Companions(stage, registry(), Store(home()), head, tokenizer, tokenizer, device)
    rewards = Rewards(stage.reward, registry())
    rewards.begin(companions)
    return rewards
