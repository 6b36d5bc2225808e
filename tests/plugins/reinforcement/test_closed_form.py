"""On answers that can be counted, PPO with a KL penalty ends where DPO does: at π*.

The optimum of a reward r with a KL penalty is π*(y) ∝ π_ref(y) exp(r(y) / β) (Rafailov et al. 2023,
section 4). The preference tests show the same of DPO.
"""
# Y answers of two words

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.plugins.reinforcement.conftest import WORDS, words_llama, write_rows
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from ontogeny import compose, run

BETA = 1.0
PROMPT = "a"


def answer_log_probs(model: LlamaForCausalLM) -> Tensor:
    """Return log p of all answers of two words: [Y], of which exp sums to 1."""
    size = len(WORDS)
    first = torch.tensor([[WORDS.index(PROMPT)]])
    with torch.no_grad():
        one = model(first).logits[0, -1].double().log_softmax(-1)
        rows = torch.cat([first.expand(size, 1), torch.arange(size)[:, None]], 1)
        other = model(rows).logits[:, -1].double().log_softmax(-1)
    return (one[:, None] + other).flatten()


def divergence(found_Y: Tensor, best_Y: Tensor) -> float:
    return float((found_Y.exp() * (found_Y - best_Y)).sum())


@pytest.mark.usefixtures("worth")
@pytest.mark.parametrize(
    ("objective", "more"),
    [
        ("ppo", ["objective.value=shared"]),
        pytest.param("ppo", ["objective.value=separate"], marks=pytest.mark.slow),
        pytest.param("rloo", ["objective.samples=2", "objective.epochs=2"], marks=pytest.mark.slow),
    ],
)
def test_training_ends_where_the_reward_with_a_kl_penalty_has_its_optimum(
    speaker: Path, tmp_path: Path, objective: str, more: list[str]
) -> None:
    rows = [{"prompt": PROMPT} for _ in range(512)]
    result = run(
        compose(
            [
                "stage=reinforcement",
                f"objective={objective}",
                f"objective.kl={BETA}",
                "objective.temperature=1",
                "objective.max_tokens=2",
                "objective.no_eos=ignore",
                "objective.max_kl=null",
                f"model.source={speaker}",
                f"data.path={write_rows(tmp_path / 'prompts.jsonl', rows)}",
                "data.validation.share=0",
                "data.batch_size=512",
                "data.max_length=8",
                "trainer.max_steps=40",
                "trainer.max_epochs=null",
                "trainer.progress=false",
                "trainer.accelerator=cpu",
                "optimizer.lr=5e-3",
                "precision=32-true",
                "reward=[table]",
                "evaluator=[]",
                "stage.samples=0",
                *more,
            ]
        )
    )
    worth_Y = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).flatten().double()
    before_Y = answer_log_probs(words_llama(3))
    best_Y = (before_Y + worth_Y / BETA).log_softmax(0)
    assert divergence(before_Y, best_Y) > 0.3
    found_Y = answer_log_probs(AutoModelForCausalLM.from_pretrained(result.checkpoint))
    assert divergence(found_Y, best_Y) < 1e-2
