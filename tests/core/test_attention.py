"""Isolation masks against masks by hand, and packed logits against those of documents alone."""
# B rows, T tokens

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BloomConfig,
    BloomForCausalLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from ontogeny.attention import (
    attention_window,
    first_position,
    is_causal,
    isolation_mask,
    model_inputs,
)
from ontogeny.data.collation import collate_tokens, pad_row
from ontogeny.data.packing import pack
from ontogeny.errors import ConfigError

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
WINDOW = 3
LENGTHS = (5, 1, 7)  # the last is longer than two windows
MASKED_LM = {"bert", "roberta", "modernbert"}
ENCODER: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "gpt2": GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32),
    "qwen3": Qwen3Config(**SIZES),
    "bert_decoder": BertConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        is_decoder=True,
    ),
    "bert": BertConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
    ),
    "roberta": RobertaConfig(**ENCODER),
    # The first layer sees everything, the others a window to both sides.
    "modernbert": ModernBertConfig(
        **ENCODER,
        local_attention=2 * (WINDOW - 1),
        **dict.fromkeys(["bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"]),
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=WINDOW),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=16,
    ),
}
every_model = pytest.mark.parametrize("name", CONFIGS)
every_kernel = pytest.mark.parametrize("kernel", ["sdpa", "eager"])


def build(name: str, kernel: str) -> PreTrainedModel:
    torch.manual_seed(0)
    auto = AutoModelForMaskedLM if name in MASKED_LM else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(  # type: ignore[no-untyped-call]
        CONFIGS[name], attn_implementation=kernel
    )
    model.eval()
    return model


def document_ids() -> Tensor:
    numbers = [number for number, length in enumerate(LENGTHS) for _ in range(length)]
    return torch.tensor([numbers, [0] * len(numbers)])


def by_hand(ids_BT: Tensor, *, causal: bool, window: int | None) -> Tensor:
    """Say for every row who looks at whom, one pair after the other: [B, T, T]."""
    rows, length = ids_BT.shape
    seen_BTT = torch.zeros(rows, length, length, dtype=torch.bool)
    for row in range(rows):
        for looks in range(length):
            for at in range(length):
                together = bool(ids_BT[row, looks] == ids_BT[row, at])
                before = not causal or at <= looks
                near = window is None or abs(looks - at) < window
                seen_BTT[row, looks, at] = together and before and near
    return seen_BTT


def seen(mask: object) -> Tensor:
    """Return a mask of either kernel as booleans, [B, T, T]."""
    assert isinstance(mask, Tensor)
    allowed = mask if mask.dtype == torch.bool else mask == 0
    return allowed[:, 0]


@every_kernel
@every_model
def test_the_mask_is_the_one_by_hand(name: str, kernel: str) -> None:
    model, ids_BT = build(name, kernel), document_ids()
    mask = isolation_mask(model, ids_BT)
    causal = name not in MASKED_LM
    if name in {"gemma3", "modernbert"}:
        assert isinstance(mask, dict)
        full, sliding = mask["full_attention"], mask["sliding_attention"]
        assert torch.equal(seen(full), by_hand(ids_BT, causal=causal, window=None))
        assert torch.equal(seen(sliding), by_hand(ids_BT, causal=causal, window=WINDOW))
        return
    window = WINDOW if name == "mistral" else None
    only = next(iter(mask.values())) if isinstance(mask, dict) else mask
    assert torch.equal(seen(only), by_hand(ids_BT, causal=causal, window=window))


def documents() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"input_ids": random.integers(1, 50, length).astype(np.int32)} for length in LENGTHS]


@every_kernel
@every_model
def test_packed_documents_have_the_logits_that_they_have_alone(name: str, kernel: str) -> None:
    model = build(name, kernel)
    packed = collate_tokens([pad_row(pack(documents()), sum(LENGTHS) + 4)])
    with torch.no_grad():
        together = model(**model_inputs(model, packed)).logits[0]
        for document, part in zip(
            documents(), together.split([*LENGTHS, 4])[: len(LENGTHS)], strict=True
        ):
            alone = model(**model_inputs(model, collate_tokens([document]))).logits[0]
            torch.testing.assert_close(part, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "roberta", "modernbert"])
def test_padded_rows_have_the_logits_that_they_have_alone(name: str) -> None:
    model = build(name, "sdpa")
    batch = collate_tokens(documents())
    with torch.no_grad():
        together_BTV = model(**model_inputs(model, batch)).logits
        for row, document in enumerate(documents()):
            alone_TV = model(**model_inputs(model, collate_tokens([document]))).logits[0]
            torch.testing.assert_close(
                together_BTV[row, : len(alone_TV)], alone_TV, atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("padding", [0, 1, 7])
def test_positions_begin_where_the_family_of_roberta_begins_to_count(padding: int) -> None:
    config = RobertaConfig(**{**ENCODER, "pad_token_id": padding})
    model = AutoModelForMaskedLM.from_config(config).eval()
    row = {"input_ids": torch.tensor([[20, 30, 40]]), "position_ids": torch.tensor([[0, 1, 0]])}
    found = model_inputs(model, row)["position_ids"]
    assert isinstance(found, Tensor)
    assert found.tolist() == [[padding + 1, padding + 2, padding + 1]]
    with torch.no_grad():
        own = model(row["input_ids"][:, :2]).logits
        ours = model(row["input_ids"][:, :2], position_ids=found[:, :2]).logits
    assert torch.equal(own, ours)


@every_model
def test_other_families_count_from_zero(name: str) -> None:
    assert first_position(build(name, "sdpa")) == (1 if name == "roberta" else 0)


def test_a_plain_batch_is_passed_on_as_it_is() -> None:
    batch = {
        "input_ids": torch.ones(1, 3),
        "labels": torch.ones(1, 3),
        "token_type_ids": torch.ones(1, 3),
        "rewards": torch.ones(1),
    }
    assert model_inputs(build("bert", "sdpa"), batch).keys() == {"input_ids", "token_type_ids"}


@every_model
def test_causal_models_are_known_by_their_layers(name: str) -> None:
    assert is_causal(build(name, "sdpa")) is (name not in MASKED_LM)


def test_a_module_without_attention_is_not_causal() -> None:
    assert not is_causal(torch.nn.Linear(2, 2))


def test_models_whose_layers_do_not_tell_are_causal_by_their_family() -> None:
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16}
    mamba = MambaForCausalLM(MambaConfig(**sizes, num_hidden_layers=1, state_size=4))
    bloom = BloomForCausalLM(BloomConfig(**sizes, n_layer=1, n_head=2))
    encoder = DebertaV2ForMaskedLM(
        DebertaV2Config(**sizes, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    )
    assert [is_causal(model) for model in (mamba, bloom, encoder)] == [True, True, False]


def test_kernels_that_take_no_mask_are_refused_with_the_way_out() -> None:
    model = build("llama", "sdpa")
    model.config._attn_implementation = "flash_attention_2"
    words = "model.attention is 'flash_attention_2', which takes no mask: set data.packing=false"
    with pytest.raises(ConfigError, match=words):
        isolation_mask(model, document_ids())


def test_under_autocast_an_additive_mask_is_of_the_type_of_the_products() -> None:
    model = build("llama", "eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mask = isolation_mask(model, document_ids())
    assert isinstance(mask, Tensor)
    assert mask.dtype == torch.bfloat16


def test_a_decoder_that_is_given_nothing_is_told_another_objective() -> None:
    config = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    model = T5ForConditionalGeneration(config)
    ids_BT = torch.tensor([[1, 2, 3]])
    with pytest.raises(ConfigError, match=r"this objective gives the decoder nothing: choose ano"):
        model_inputs(model, {"input_ids": ids_BT})
    batch = {"input_ids": ids_BT, "decoder_input_ids": ids_BT}
    assert model_inputs(model, batch).keys() == batch.keys()


BRANCHED = {
    "input_ids": np.array([5, 6, 7, 8, 9, 7, 10, 11], np.int32),
    "branch_ids": np.array([0, 0, 1, 1, 1, 2, 2, 2], np.int32),
}
BRANCHES = ([5, 6, 7, 8, 9], [5, 6, 7, 10, 11])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        Qwen3Config(**SIZES),
        GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2),
        Gemma3TextConfig(
            **SIZES, sliding_window=64, layer_types=["sliding_attention", "full_attention"]
        ),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_branches_go_on_from_one_beginning_without_seeing_each_other(
    config: PreTrainedConfig, packed: bool, attention: str
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    other = {name: column[:4] for name, column in BRANCHED.items()}
    rows = [BRANCHED, other]
    if packed:
        row = pack(rows)
        batch = collate_tokens([pad_row(row, len(row["input_ids"]) + 2)])
    else:
        batch = collate_tokens(rows)
    with torch.no_grad():
        found = model(**model_inputs(model, batch)).logits[0]
        alone = [model(input_ids=torch.tensor([ids])).logits[0] for ids in BRANCHES]
    assert torch.allclose(found[:5], alone[0], atol=1e-5)
    assert torch.allclose(found[5:8], alone[1][2:], atol=1e-5)


def test_the_window_of_a_model_is_that_of_its_shortest_sighted_layer() -> None:
    sees_all = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    windowed = AutoModelForCausalLM.from_config(
        Gemma3TextConfig(
            **SIZES, sliding_window=64, layer_types=["sliding_attention", "full_attention"]
        )
    )
    assert attention_window(sees_all) is None
    assert attention_window(windowed) == 64
