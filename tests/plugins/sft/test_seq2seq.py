"""Encoder-decoder models: the prompt is read, the completion and its end are learnt."""
# B rows, T tokens of prompts, U tokens of completions, V vocabulary

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from ontogeny.errors import ConfigError, RowError
from ontogeny.objective import Example, Row
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.sft import Seq2Seq
from ontogeny_plugins.sft.named_templates import give_template
from ontogeny_plugins.sft.seq2seq import Seq2SeqObjective

ROWS: list[Row] = [
    {"prompt": "A long text that is to be made short.", "completion": "Short."},
    {"prompt": "?", "completion": "A completion that is longer than its prompt: 日本."},
    {"prompt": "Why?", "completion": "So."},
]


def bare_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def prepare(rows: list[Row], tokenizer: Any, **options: int) -> list[Example]:
    return list(Seq2SeqObjective(Seq2Seq(**options)).prepare(rows, tokenizer))


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    size, ids = len(byte_tokenizer()), {"pad_token_id": 1, "eos_token_id": 0}
    t5 = T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, **ids)
    t5.decoder_start_token_id = 1
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = BartConfig(
        vocab_size=size,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        **heads,
        **ids,
    )
    built = {"t5": T5ForConditionalGeneration(t5), "bart": BartForConditionalGeneration(bart)}
    return {name: model.double().eval() for name, model in built.items()}


every_model = pytest.mark.parametrize("name", ["t5", "bart"])


def test_the_encoder_gets_the_prompt_and_the_decoder_learns_the_completion_and_its_end() -> None:
    tokenizer = bare_tokenizer()
    for example, row in zip(prepare(ROWS, tokenizer), ROWS, strict=True):
        assert example["input_ids"].tolist() == tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["completion"])["input_ids"]
        assert example["decoder_labels"].tolist() == [*ids, tokenizer.eos_token_id]


def test_what_the_tokenizer_puts_around_texts_is_kept_and_ends_them_once() -> None:
    tokenizer = bare_tokenizer()
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        f"$0 {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )  # as in T5
    (example,) = prepare(ROWS[:1], tokenizer)
    assert tokenizer.decode(example["input_ids"]) == f"{ROWS[0]['prompt']}{end}"
    assert tokenizer.decode(example["decoder_labels"]) == f"Short.{end}"


def test_with_a_template_the_encoder_gets_the_rendered_turns_before_the_last_answer() -> None:
    tokenizer = bare_tokenizer()
    give_template(tokenizer, "plain")
    talk = [("user", "One?"), ("assistant", "1."), ("user", "Two?"), ("assistant", "2.")]
    row = {"messages": [{"role": role, "content": content} for role, content in talk]}
    (example,) = prepare([row], tokenizer)
    end = tokenizer.eos_token
    assert tokenizer.decode(example["input_ids"]) == f"One?\n1.{end}Two?\n"
    assert tokenizer.decode(example["decoder_labels"]) == f"2.{end}"


@every_model
def test_the_loss_is_that_of_a_float64_reference_row_by_row(
    name: str, models: dict[str, PreTrainedModel]
) -> None:
    model, examples = models[name], prepare(ROWS, bare_tokenizer())
    reference = []
    for example in examples:
        labels_1U = torch.from_numpy(example["decoder_labels"]).long()[None]
        # transformers shifts the labels itself, and means over them.
        with torch.no_grad():
            ids_1T = torch.from_numpy(example["input_ids"]).long()[None]
            mean = model(input_ids=ids_1T, labels=labels_1U).loss
        reference.append(float(mean) * labels_1U.numel())
    objective = Seq2SeqObjective(Seq2Seq())
    with torch.no_grad():
        found = objective.loss(model, objective.collate(examples))
    assert float(found.total) == pytest.approx(math.fsum(reference), rel=1e-10)
    assert int(found.weight) == sum(len(example["decoder_labels"]) for example in examples)


def test_both_sides_are_padded_on_their_own() -> None:
    examples = prepare(ROWS, bare_tokenizer())
    batch = Seq2SeqObjective(Seq2Seq()).collate(examples)
    longest = [max(len(example[name]) for example in examples) for name in examples[0]]
    assert [batch["input_ids"].shape[1], batch["labels"].shape[1]] == longest
    counts = [len(example["input_ids"]) for example in examples]
    assert batch["attention_mask"].sum(1).tolist() == counts


def test_a_completion_of_too_many_tokens_is_a_bad_row() -> None:
    with pytest.raises(RowError, match=r"has \d+ tokens; objective.max_completion is 20") as caught:
        prepare(ROWS, bare_tokenizer(), max_completion=20)
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "completion": ""}, "the completion is empty"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "ends with a turn of the user"),
    ],
)
def test_a_row_without_an_answer_is_a_bad_one(row: Row, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        prepare([row], bare_tokenizer())


def test_a_model_without_a_decoder_of_its_own_is_told_another_objective() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 300}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2))
    objective = Seq2SeqObjective(Seq2Seq())
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM is none: choose head=seq2seq_lm"):
        objective.loss(model, objective.collate(prepare(ROWS, bare_tokenizer())))


def test_a_completion_beyond_the_context_of_the_decoder_is_refused(
    models: dict[str, PreTrainedModel],
) -> None:
    objective, bart = Seq2SeqObjective(Seq2Seq(max_completion=2000)), models["bart"]
    rows: list[Row] = [{"prompt": "?", "completion": "x" * 1500}]
    with pytest.raises(ConfigError, match=r"1501 tokens, more than the context of the model: 1024"):
        objective.loss(
            bart, objective.collate(prepare(rows, bare_tokenizer(), max_completion=2000))
        )


def test_the_longest_completion_must_be_one_token_or_more() -> None:
    with pytest.raises(ConfigError, match=r"objective.max_completion is 0; expected"):
        Seq2Seq(max_completion=0)
