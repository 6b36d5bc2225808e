"""Batched generation against one token at a time, without a cache and without a batch."""
# B rows, T tokens, V vocabulary

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import profile
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ontogeny import ConfigError
from ontogeny.adapter import Bundle
from ontogeny.generation import (
    Decoding,
    require_generation,
    require_room,
    stop_tokens,
    write,
)
from ontogeny.testing import byte_tokenizer
from ontogeny.testing.bigram import bigram_model

TEXTS = ["a", "hello world, this is", "xyz abc", "ten chars!", "é"]
V = 259
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
GPT2_SIZES: dict[str, Any] = {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 2}
ENDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}


def sharp(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model whose predictions differ clearly, so that mistakes show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model.eval()


def build(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    built: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **ENDS)),
        "mistral": lambda: MistralForCausalLM(
            MistralConfig(**SIZES, **ENDS, num_key_value_heads=2, sliding_window=8)
        ),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2_SIZES, **ENDS, n_positions=64)),
        "bert": lambda: BertLMHeadModel(BertConfig(**SIZES, is_decoder=True)),
        "bloom": lambda: BloomForCausalLM(
            BloomConfig(vocab_size=V, hidden_size=32, n_layer=2, n_head=2, **ENDS)
        ),
        "roberta": lambda: RobertaForCausalLM(RobertaConfig(**SIZES, is_decoder=True)),
        "rwkv": lambda: RwkvForCausalLM(
            RwkvConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2, **ENDS)
        ),
    }
    return sharp(built[family]())


def bundle(model: PreTrainedModel) -> Bundle:
    return Bundle(model, byte_tokenizer(), cast("Any", None))


def ids(text: str) -> list[int]:
    return cast("list[int]", byte_tokenizer()(text)["input_ids"])


def greedy_by_hand(model: PreTrainedModel, prompt: list[int], tokens: int) -> list[int]:
    """Append the likeliest token to the whole row, again and again, until the end of text."""
    line = list(prompt)
    with torch.no_grad():
        while len(line) < len(prompt) + tokens and 0 not in line[len(prompt) :]:
            line.append(int(model(torch.tensor([line]), use_cache=False).logits[0, -1].argmax()))
    return line[len(prompt) :]


# RoBERTa counts positions from 2 on; RWKV reads padding, since it has no mask.
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "bert", "bloom", "roberta", "rwkv"])
def test_a_batch_writes_what_the_model_writes_token_by_token(family: str) -> None:
    model = build(family)
    prompts = [ids(text) for text in TEXTS]
    written = write(bundle(model), prompts, Decoding(max_tokens=9, batch_size=3))
    expected = [greedy_by_hand(model, prompt, 9) for prompt in prompts]
    assert [each.tokens for each in written] == expected


def test_an_encoder_decoder_reads_the_prompt_and_writes_from_its_own_start() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": V, "d_model": 32, "d_ff": 48, "num_layers": 2}
    config = T5Config(**sizes, num_heads=2, d_kv=16, decoder_start_token_id=5, eos_token_id=0)
    model = sharp(T5ForConditionalGeneration(config))
    prompts = [ids(text) for text in TEXTS]
    written = write(bundle(model), prompts, Decoding(max_tokens=6, batch_size=5))
    for prompt, each in zip(prompts, written, strict=True):
        line = [5]
        with torch.no_grad():
            for _ in range(6):
                logits = model(
                    torch.tensor([prompt]), decoder_input_ids=torch.tensor([line])
                ).logits
                line.append(int(logits[0, -1].argmax()))
        assert each.tokens == line[1 : 1 + len(each.tokens)]
        assert each.ended == (line[len(each.tokens)] == 0)


def chain(text: str) -> PreTrainedModel:
    """Return a model that goes round in a text, letter by letter; letters must differ."""
    logits = torch.zeros(V, V)
    letters = ids(text)
    for here, after in zip(letters, [*letters[1:], letters[0]], strict=True):
        logits[here, after] = 50.0
    return bigram_model(logits)


def test_a_text_ends_at_its_first_stop_token_though_padding_is_the_same_token() -> None:
    model = chain("abcdefgh")
    end, tokenizer = ids("d")[0], byte_tokenizer()
    model.generation_config.eos_token_id = [end, ids("f")[0]]
    tokenizer.eos_token_id = tokenizer.pad_token_id = end
    found = write(
        Bundle(model, tokenizer, cast("Any", None)),
        [ids("a"), ids("xxe"), ids("g")],
        Decoding(max_tokens=6, batch_size=3),
    )
    assert [each.tokens for each in found] == [ids("bcd"), ids("f"), ids("habcd")]
    assert [each.text for each in found] == ["bc", "", "habc"]
    assert all(each.ended for each in found)


def test_what_is_cut_off_has_not_ended() -> None:
    found = write(bundle(chain("abcd")), [ids("a")], Decoding(max_tokens=6, batch_size=1))
    assert found[0].text == "bcdabc"
    assert not found[0].ended


def test_stop_tokens_are_those_of_the_generation_config_and_of_the_tokenizer() -> None:
    model, tokenizer = chain("ab"), byte_tokenizer()
    model.generation_config.eos_token_id = [7, 3]
    assert stop_tokens(model, tokenizer) == [0, 3, 7]
    model.generation_config.eos_token_id = None
    assert stop_tokens(model, tokenizer) == [0]
    tokenizer.eos_token = tokenizer.chat_template = None
    assert stop_tokens(model, tokenizer) == []
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|mask|>{% endfor %}"
    assert stop_tokens(model, tokenizer) == [2]  # what ends a turn


def test_a_stop_text_ends_a_row_and_is_left_out() -> None:
    model = chain("abcdefgh")
    decoding = Decoding(max_tokens=50, batch_size=2, stops=("ef", "bcd"))
    found = write(bundle(model), [ids("a"), ids("d")], decoding)
    assert [each.text for each in found] == ["", ""]
    decoding = Decoding(max_tokens=50, batch_size=2, stops=("fg",))
    found = write(bundle(model), [ids("a"), ids("f")], decoding)
    assert [each.text for each in found] == ["bcde", "ghabcde"]
    assert [each.tokens for each in found] == [ids("bcdefg"), ids("ghabcdefg")]
    assert all(each.ended for each in found)


@pytest.mark.parametrize("family", ["llama", "gpt2", "rwkv"])
def test_what_is_drawn_does_not_depend_on_the_batch(family: str) -> None:
    model = build(family)
    prompts = [ids(text) for text in TEXTS]

    def tokens(batch_size: int, seed: int = 3) -> list[list[int]]:
        decoding = Decoding(9, batch_size, temperature=0.8, seed=seed)
        return [each.tokens for each in write(bundle(model), prompts, decoding)]

    assert tokens(1) == tokens(2) == tokens(5)
    assert tokens(5) != tokens(5, seed=4)
    torch.manual_seed(9)
    assert tokens(1) == tokens(5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_with_the_probabilities_of_the_model(temperature: float) -> None:
    logits = torch.full((V, V), -1e4)
    wanted = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits[:, 10:14] = wanted.log()
    rows = 4000
    decoding = Decoding(max_tokens=1, batch_size=1000, temperature=temperature)
    found = write(bundle(bigram_model(logits)), [[65]] * rows, decoding)
    counts = Counter(each.tokens[0] for each in found)
    assert set(counts) == {10, 11, 12, 13}
    expected = wanted.pow(1 / temperature)
    expected /= expected.sum()
    for token, share in zip(range(10, 14), expected.tolist(), strict=True):
        spread = (share * (1 - share) / rows) ** 0.5
        assert counts[token] / rows == pytest.approx(share, abs=4 * spread)


def test_the_model_and_the_tokenizer_are_left_as_they_were_found() -> None:
    model = build("llama")
    model.train()
    model.model.layers[0].eval()
    model.config.use_cache = False
    config = model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.3,
        top_k=5,
        repetition_penalty=9.0,
        eos_token_id=0,
        max_length=3,
    )
    modes = {name: module.training for name, module in model.named_modules()}
    own = bundle(model)
    side = own.tokenizer.padding_side
    found = write(own, [ids("abc"), ids("d")], Decoding(8, 2))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.generation_config is config
    assert model.config.use_cache is False
    assert own.tokenizer.padding_side == side
    # Nor does how a checkpoint likes to be sampled change what greedy decoding is.
    model.eval()
    assert found[0].tokens == greedy_by_hand(model, ids("abc"), 8)[: len(found[0].tokens)]
    assert len(found[1].tokens) == 8


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks for it
def test_a_model_with_a_peft_adapter_writes_and_keeps_its_generation_config() -> None:
    model = build("llama")
    config = model.generation_config
    wrapped = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    wrapped.eval()
    expected = greedy_by_hand(wrapped, ids("abc"), 6)
    found = write(bundle(cast("Any", wrapped)), [ids("abc")], Decoding(6, 1))
    assert found[0].tokens == expected
    assert wrapped.generation_config is model.generation_config is config
    assert config.max_new_tokens is None


def test_a_compiled_body_is_not_compiled_again_for_every_length() -> None:
    model = build("llama")
    graphs = []

    def backend(graph: Any, _: object) -> Any:
        graphs.append(graph)
        return graph.forward

    model.model.compile(backend=backend)
    expected = greedy_by_hand(build("llama"), ids("abc"), 4)
    assert write(bundle(model), [ids("abc")], Decoding(4, 1))[0].tokens == expected
    assert graphs == []


def test_prompts_that_leave_no_room_are_refused_with_both_numbers() -> None:
    model = build("gpt2")
    require_room(model, [[1] * 60], 4, "evaluator.x.max_tokens")
    words = (
        "evaluator.x.max_tokens is 5 and the longest prompt has 60 tokens, more than the context "
        "of the model: 64"
    )
    with pytest.raises(ConfigError, match=words):
        require_room(model, [[1], [1] * 60], 5, "evaluator.x.max_tokens")


def test_positions_that_are_for_padding_leave_less_room() -> None:
    model = RobertaForCausalLM(RobertaConfig(**SIZES, is_decoder=True, max_position_embeddings=66))
    require_room(model, [[5] * 60], 4, "evaluator.x.max_tokens")
    write(bundle(model), [[5] * 60], Decoding(4, 1))
    with pytest.raises(ConfigError, match="more than the context of the model: 64"):
        require_room(model, [[5] * 60], 5, "evaluator.x.max_tokens")


def test_a_model_that_cannot_write_is_refused() -> None:
    model = BertForMaskedLM(BertConfig(**SIZES))
    with pytest.raises(ConfigError, match="lets the model write, which a BertForMaskedLM cannot"):
        require_generation(model, "evaluator.x")


def test_casts_of_frozen_weights_are_kept_while_writing_and_gone_afterwards() -> None:
    model = build("llama")
    for weights in model.parameters():
        weights.requires_grad_(False)
    trained = next(iter(model.parameters())).requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        write(bundle(model), [[1, 2, 3]], Decoding(4, 1))
        wanted = [weights.requires_grad for weights in model.parameters()]
        loss = model(input_ids=torch.tensor([[1, 2, 3]])).logits.float().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert wanted == [True, *[False] * (len(wanted) - 1)]
    assert trained.grad is not None


@pytest.mark.parametrize("frozen", [False, True])
def test_weights_are_cast_once_however_many_tokens_are_written(frozen: bool) -> None:
    """Lightning turns the cache of autocast off, and it keeps no casts of frozen weights."""
    model = build("llama").requires_grad_(not frozen)
    shapes = {tuple(each.shape) for each in model.parameters() if each.dim() == 2}
    counts = []
    for tokens in (3, 9):
        with (
            torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
            profile(record_shapes=True) as recorded,
        ):
            write(bundle(model), [ids("abc")], Decoding(tokens, 1))
            assert not torch.is_autocast_cache_enabled()
        casts = [each for each in recorded.events() if each.name == "aten::_to_copy"]
        counts.append(sum(tuple(each.input_shapes[0]) in shapes for each in casts))
        assert all(each.requires_grad != frozen for each in model.parameters())
    assert counts[0] == counts[1] > 0
