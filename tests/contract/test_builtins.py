"""The built-in plugins keep the promises that everybody's plugins make: one line for each."""

from collections.abc import Callable

import pytest

from ontogeny.component import KINDS
from ontogeny.plugins import Plugin, registry
from ontogeny.testing import (
    check_adapter,
    check_evaluator,
    check_exporter,
    check_head,
    check_objective,
    check_plugin,
    check_reward,
    sample_rows,
)

CHECKS: dict[str, Callable[..., None]] = {
    "objective": check_objective,
    "head": check_head,
    "adapter": check_adapter,
    "evaluator": check_evaluator,
    "reward": check_reward,
    "exporter": check_exporter,
}
QUICK = ["stage.sample_tokens=0"]
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TINY_BERT = [f"model.config.{name}={value}" for name, value in BERT.items()]
T5 = {
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 1,
    "num_heads": 2,
}
TINY_T5 = [f"model.config.{name}={value}" for name, value in T5.items()]
ANSWERED = sample_rows([("prompt", "completion")])
QUESTIONS = [{**row, "answer": 0} for row in sample_rows([("question", "choices")])]
CUT = ["adapter=[cut]", "adapter.cut.layers=[0]"]  # out of a teacher
WRITING = [*CUT, "objective.max_tokens=6"]
STRIDES = ["objective.stride=8", "evaluator.span_qa.stride=8"]
ROLLOUTS = [
    *QUICK,
    "reward=[length]",
    "objective.max_tokens=6",
    "trainer.max_steps=3",
]
# Need an optional package, another checkpoint, a teacher, a reward model, or a tokenizer or adapter
# that the format can hold: the tests of their plugins check their contracts with those.
ELSEWHERE = {
    ("evaluator", "lm_eval"),
    ("evaluator", "win_rate"),
    ("exporter", "gguf"),
    ("exporter", "onnx"),
    ("exporter", "peft"),
    ("objective", "cross_tokenizer"),
    ("objective", "masked_distillation"),
    ("reward", "checkpoint"),
}
COMPONENTS: list[tuple[str, str, dict[str, object]]] = [
    ("adapter", "adalora", {}),
    ("adapter", "block_expansion", {"overrides": ["adapter.block_expansion.every=1"]}),
    ("adapter", "cut", {"stage": "distillation", "overrides": [*QUICK, *CUT]}),
    ("adapter", "freeze", {"overrides": ["adapter.freeze.first_blocks=1"]}),
    ("adapter", "full", {}),
    ("adapter", "lora", {}),
    ("adapter", "magnitude", {}),
    ("adapter", "peft", {"overrides": ["adapter=[peft]", "adapter.peft.method=vera"]}),
    ("adapter", "quantization", {}),
    ("adapter", "trimming", {}),
    ("adapter", "vocabulary", {}),
    ("adapter", "wanda", {}),
    ("objective", "bradley_terry", {"stage": "reward_modeling"}),
    ("objective", "classification", {"stage": "finetuning"}),
    ("objective", "clm", {"overrides": QUICK}),
    ("objective", "contrastive", {"stage": "finetuning_embedding"}),
    ("objective", "cpo", {"stage": "preference", "overrides": QUICK}),
    ("objective", "distillation", {"stage": "distillation", "overrides": [*QUICK, *CUT]}),
    ("objective", "dpo", {"stage": "preference", "overrides": QUICK}),
    ("objective", "grpo", {"stage": "reinforcement", "overrides": ROLLOUTS}),
    ("objective", "gkd", {"stage": "distillation_on_policy", "overrides": [*QUICK, *WRITING]}),
    ("objective", "kto", {"stage": "preference", "overrides": [*QUICK, "evaluator=[]"]}),
    ("objective", "minillm", {"stage": "distillation_on_policy", "overrides": [*QUICK, *WRITING]}),
    ("objective", "mlm", {"stage": "pretraining_mlm", "overrides": [*QUICK, *TINY_BERT]}),
    ("objective", "multiple_choice", {"stage": "finetuning_choice"}),
    ("objective", "orpo", {"stage": "preference", "overrides": QUICK}),
    ("objective", "ppo", {"stage": "reinforcement", "overrides": ROLLOUTS}),
    ("objective", "rloo", {"stage": "reinforcement", "overrides": ROLLOUTS}),
    ("objective", "seq2seq", {"stage": "sft_seq2seq", "overrides": [*QUICK, *TINY_T5]}),
    ("objective", "sft", {"stage": "sft", "overrides": QUICK}),
    ("objective", "simpo", {"stage": "preference", "overrides": QUICK}),
    ("objective", "span_qa", {"stage": "finetuning_qa", "overrides": STRIDES}),
    ("objective", "tagging", {"stage": "finetuning_tagging"}),
    ("head", "causal_lm", {}),
    ("head", "embedding", {"stage": "finetuning_embedding"}),
    ("head", "masked_lm", {"architecture": BERT}),
    ("head", "multiple_choice", {"stage": "finetuning_choice"}),
    ("head", "question_answering", {"stage": "finetuning_qa"}),
    ("head", "reward", {"stage": "reward_modeling"}),
    ("head", "seq2seq_lm", {"architecture": T5}),
    ("head", "sequence_classification", {"stage": "finetuning"}),
    ("head", "token_classification", {"stage": "finetuning_tagging"}),
    ("head", "value", {}),
    ("evaluator", "classification", {"stage": "finetuning"}),
    ("evaluator", "completion_perplexity", {"stage": "sft"}),
    ("evaluator", "domain_accuracy", {"rows": QUESTIONS}),
    ("evaluator", "few_shot", {"rows": ANSWERED, "overrides": ["evaluator.few_shot.k=1"]}),
    ("evaluator", "generation", {"rows": ANSWERED}),
    (
        *("evaluator", "instruction_following"),
        {"overrides": ["evaluator.instruction_following.max_tokens=4"]},
    ),
    ("evaluator", "multiple_choice", {"stage": "finetuning_choice"}),
    ("evaluator", "perplexity", {}),
    ("evaluator", "preference", {"stage": "preference"}),
    ("evaluator", "pseudo_perplexity", {"stage": "pretraining_mlm", "overrides": TINY_BERT}),
    ("evaluator", "retrieval", {"stage": "finetuning_embedding"}),
    ("evaluator", "reward", {"stage": "reward_modeling"}),
    ("evaluator", "rollouts", {"stage": "reinforcement", "overrides": ["reward=[length]"]}),
    ("evaluator", "safety", {"overrides": ["evaluator.safety.max_tokens=4"]}),
    ("evaluator", "span_qa", {"stage": "finetuning_qa", "overrides": STRIDES}),
    ("evaluator", "tagging", {"stage": "finetuning_tagging"}),
    ("exporter", "program", {}),
    ("exporter", "safetensors", {}),
    ("reward", "exact", {"rows": [{"prompt": "2 + 2 is", "answer": "4"}]}),
    ("reward", "length", {}),
    ("reward", "pattern", {"overrides": ["reward=[pattern]", "reward.pattern.pattern=o"]}),
]


def built_in() -> list[Plugin]:
    return [plugin for plugin in registry().plugins if plugin.origin == "ontogeny"]


@pytest.mark.parametrize(("kind", "name", "arguments"), COMPONENTS, ids=str)
def test_a_built_in_component_keeps_its_contract(
    kind: str, name: str, arguments: dict[str, object]
) -> None:
    CHECKS[kind](name, **arguments)


@pytest.mark.parametrize("name", [plugin.name for plugin in built_in()])
def test_a_built_in_plugin_is_light_and_its_configs_compose(name: str) -> None:
    check_plugin(name, skip=list(CHECKS))


def test_every_built_in_component_has_its_line_here() -> None:
    offered = {
        (kind, name)
        for kind in KINDS
        for name, registered in registry().components[kind].items()
        if kind in CHECKS and registered.plugin.origin == "ontogeny"
    }
    assert offered == {(kind, name) for kind, name, _ in COMPONENTS} | ELSEWHERE
