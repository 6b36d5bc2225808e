"""Log-likelihoods of continuations against plain logits, and against lm-evaluation-harness."""
# B rows, T tokens, V vocabulary

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from ontogeny import ConfigError
from ontogeny.adapter import Bundle
from ontogeny.continuation_scores import (
    require_choices,
    require_fit,
    score_continuations,
    tokens_of,
)
from ontogeny.testing import byte_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def build(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    built: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=2, n_positions=64)
        ),
        # Its logits are capped after the output layer.
        "gemma2": lambda: Gemma2ForCausalLM(
            Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=16, final_logit_softcapping=2.0)
        ),
    }
    model = built[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return cast("PreTrainedModel", model.eval())


def bundle(model: PreTrainedModel) -> Bundle:
    return Bundle(model, byte_tokenizer(), cast("Any", None))


def by_hand(
    model: PreTrainedModel, context: list[int], continuation: list[int]
) -> tuple[float, bool]:
    """Return Σ log p of a continuation, and whether each of its tokens is the likeliest."""
    with torch.no_grad():
        logits_TV = model(torch.tensor([[*context, *continuation]])).logits[0].double()
    log_probs_TV = logits_TV.log_softmax(-1)[len(context) - 1 : -1]
    total = sum(float(log_probs_TV[t, token]) for t, token in enumerate(continuation))
    return total, log_probs_TV.argmax(-1).tolist() == continuation


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_scores_are_those_of_plain_logits(family: str, batch_size: int) -> None:
    model, random = build(family), torch.Generator().manual_seed(1)

    def some(count: int) -> list[int]:
        return torch.randint(3, 259, (count,), generator=random).tolist()

    pairs = [(some(context), some(after)) for context in (1, 4, 13) for after in (1, 2, 6)]
    with torch.no_grad():  # one that greedy decoding writes
        likeliest = int(model(torch.tensor([pairs[4][0]])).logits[0, -1].argmax())
        pairs.append((pairs[4][0], [likeliest]))
        scores = score_continuations(bundle(model), pairs, batch_size)
    for index, (context, continuation) in enumerate(pairs):
        total, is_likeliest = by_hand(model, context, continuation)
        assert scores.log_probs_N[index] == pytest.approx(total, rel=1e-5, abs=1e-5)
        assert scores.is_likeliest_N[index] == is_likeliest
        assert scores.tokens_N[index] == len(continuation)
    assert scores.is_likeliest_N[-1]


def test_only_the_continuations_reach_the_output_layer_a_chunk_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build("llama")
    pairs = [([5] * 30, [7] * 6)] * 4
    seen: list[int] = []
    monkeypatch.setattr("ontogeny.continuation_scores.CHUNK_BYTES", 4 * 259 * 5)
    handle = model.lm_head.register_forward_hook(
        lambda _layer, args, _out: seen.append(args[0].shape[:-1].numel())
    )
    with torch.no_grad():
        score_continuations(bundle(model), pairs, 4)
    handle.remove()
    assert sum(seen) == 4 * 6
    assert max(seen) <= 5


def test_a_text_is_cut_where_the_context_ends_and_spaces_go_to_the_continuation() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["ab"])
    merged = tokenizer.convert_tokens_to_ids("ab")

    def ids(text: str) -> list[int]:
        return cast("list[int]", tokenizer(text)["input_ids"])

    assert tokens_of(tokenizer, "x ", "y") == ([0, *ids("x")], ids(" y"))
    assert tokens_of(tokenizer, "", "y") == ([0], ids("y"))
    # "xa" + "by" has one token fewer than its parts: the harness counts the context's off.
    assert ids("xaby") == [*ids("x"), merged, *ids("y")]
    assert tokens_of(tokenizer, "xa", "by") == ([0, *ids("xa")], ids("y"))
    assert tokens_of(tokenizer, "xa", "b") == ([0, *ids("xa")], ids("b"))  # nothing would be left


def test_models_that_say_no_likelihood_are_refused() -> None:
    t5 = T5Config(vocab_size=259, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    for model in (BertForMaskedLM(BertConfig(**SIZES)), T5ForConditionalGeneration(t5)):
        with pytest.raises(ConfigError, match=f"a {type(model).__name__} does not say; choose"):
            require_choices(model, "evaluator.x")
    require_choices(build("llama"), "evaluator.x")


def test_questions_longer_than_the_context_are_refused() -> None:
    model = build("gpt2")
    require_fit(model, [([1] * 60, [2] * 5)], "evaluator.x.k is 5")
    words = r"evaluator.x.k is 5: the longest question has 66 tokens with its choice, more than th"
    with pytest.raises(ConfigError, match=words):
        require_fit(model, [([1], [2]), ([1] * 60, [2] * 6)], "evaluator.x.k is 5")
