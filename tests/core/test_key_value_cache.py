"""Reserved keys and values against those of transformers, which copies them for every token."""
# B texts, H heads, T tokens, D width of a head

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from peft import (
    IA3Config,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import (
    BertConfig,
    BertLMHeadModel,
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.cache_utils import DynamicLayer

from ontogeny.adapter import Bundle
from ontogeny.generation import Decoding, write
from ontogeny.key_value_cache import ReservedLayer, reserved_cache
from ontogeny.testing import byte_tokenizer

B, H, D = 2, 3, 4
SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def gemma() -> PreTrainedModel:
    """Return a model with layers of both kinds."""
    config = Gemma3TextConfig(**SIZES, num_key_value_heads=2, head_dim=8, sliding_window=6)
    config.layer_types = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)),
    "mistral": lambda: MistralForCausalLM(
        MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=6)
    ),
    "gemma3": gemma,
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=2)),
    "bert": lambda: BertLMHeadModel(BertConfig(**SIZES, is_decoder=True)),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2, state_size=4)
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=259, d_model=32, d_ff=48, num_layers=2, num_heads=2, d_kv=8)
    ),
}


def build(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return MODELS[family]()


def states(tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, B, H, tokens, D, generator=generator)
    return keys, values


@pytest.mark.parametrize("reserved", [1, 5, 12, 100])
def test_it_holds_what_transformers_holds_whatever_was_reserved(reserved: int) -> None:
    ours, theirs = ReservedLayer(reserved), DynamicLayer()
    for seed, tokens in enumerate((4, 1, 1, 3, 1, 1)):
        for found, expected in zip(
            ours.update(*states(tokens, seed)), theirs.update(*states(tokens, seed)), strict=True
        ):
            assert torch.equal(found, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)


def test_nothing_is_copied_as_long_as_there_is_room() -> None:
    layer = ReservedLayer(8)
    layer.update(*states(4))
    place = cast("torch.Tensor", layer.keys).data_ptr()
    for _ in range(4):
        layer.update(*states(1))
        assert cast("torch.Tensor", layer.keys).data_ptr() == place
    layer.update(*states(1))
    assert cast("torch.Tensor", layer.keys).data_ptr() != place


@pytest.mark.parametrize("change", ["crop", "batch_select_indices", "reorder_cache", "reset"])
def test_tokens_go_on_after_a_change_from_outside(change: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "crop": (-2,),
        "batch_select_indices": (torch.tensor([1]),),
        "reorder_cache": (torch.tensor([1, 0]),),
        "reset": (),
    }
    found = []
    for layer in (ReservedLayer(9), DynamicLayer()):
        layer.update(*states(4))
        getattr(layer, change)(*arguments[change])
        rows = 1 if change == "batch_select_indices" else B
        for seed in (1, 2):
            more = [each[:rows] for each in states(1, seed)]
            found.append(torch.stack(layer.update(more[0], more[1])))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


def test_under_autocast_keys_are_kept_as_attention_reads_them() -> None:
    layer = ReservedLayer(8)
    with torch.autocast("cpu", torch.bfloat16):
        keys, values = layer.update(*states(3))
    assert keys.dtype == values.dtype == torch.bfloat16
    assert torch.equal(keys, states(3)[0].bfloat16())
    without = ReservedLayer(8).update(*states(3))
    assert without[0].dtype == torch.float32


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2", "bert"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_model_writes_the_same_as_with_its_own_cache(
    family: str, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(family).eval()
    bundle = Bundle(model, byte_tokenizer(), cast("Any", None))
    prompts = [[5, 6, 7], [8, 9], [10] * 9]
    decoding = Decoding(max_tokens=12, batch_size=2, temperature=1.0, seed=3)
    written = []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr("ontogeny.generation.reserved_cache", lambda *_: None)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            written.append(write(bundle, prompts, decoding))
    assert [each.tokens for each in written[0]] == [each.tokens for each in written[1]]
    for ours, theirs in zip(*written, strict=True):
        assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-6)


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(
    "config",
    [
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),  # begins the cache itself
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),  # adds to the prompt
        IA3Config(task_type="CAUSAL_LM"),
    ],
    ids=lambda config: type(config).__name__,
)
def test_an_adapter_writes_the_same_as_with_its_own_cache(
    config: PeftConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = get_peft_model(build("llama"), config).eval()
    bundle = Bundle(cast("Any", model), byte_tokenizer(), cast("Any", None))
    decoding = Decoding(max_tokens=8, batch_size=2, temperature=1.0)
    kept = write(bundle, [[5, 6, 7], [8, 9]], decoding)
    monkeypatch.setattr("ontogeny.generation.reserved_cache", lambda *_: None)
    assert [each.tokens for each in kept] == [
        each.tokens for each in write(bundle, [[5, 6, 7], [8, 9]], decoding)
    ]


def test_layers_that_attend_to_a_window_stay_as_transformers_makes_them() -> None:
    cache = cast("DynamicCache", reserved_cache(build("gemma3"), 20))
    kinds = [type(layer).__name__ for layer in cache.layers]
    assert kinds == ["DynamicSlidingWindowLayer", "ReservedLayer"]


@pytest.mark.parametrize("family", ["mamba", "t5", "mistral"])
def test_a_model_without_such_layers_makes_its_cache_itself(family: str) -> None:
    assert reserved_cache(build(family), 20) is None


def test_a_model_that_prepares_a_cache_of_its_own_kind_keeps_it() -> None:
    class Own(LlamaForCausalLM):
        def _prepare_cache_for_generation(self, *_: object, **__: object) -> None: ...  # type: ignore[override]

    config = LlamaConfig(**SIZES)
    assert reserved_cache(Own(config), 20) is None
    assert reserved_cache(LlamaForCausalLM(config), 20) is not None
