"""Models out of architectures and checkpoints; every architecture that ships along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ontogeny import CheckpointError, ConfigError, compose
from ontogeny.adapter import Bundle
from ontogeny.attention import is_causal
from ontogeny.head import Head
from ontogeny.help import options_by_group
from ontogeny.models import architecture, load_pretrained, longest_context, random_weights
from ontogeny.objective import Objective
from ontogeny.options import Model
from ontogeny.plugins import registry
from ontogeny.preflight import Proof, prove
from ontogeny.seeding import seed_everything
from ontogeny.testing import byte_tokenizer

ARCHITECTURES = options_by_group()["model"]
TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def load(model: Model) -> LlamaForCausalLM:
    seed_everything(0)
    config = architecture(model, byte_tokenizer(), {})
    built = random_weights(AutoModelForCausalLM, config)
    assert isinstance(built, LlamaForCausalLM)
    return built


DECODERS, ENCODERS = ("gpt2", "llama", "qwen"), ("bert", "modernbert", "roberta")


def of_families(families: tuple[str, ...]) -> list[str]:
    return [name for name in ARCHITECTURES if name.rpartition("_")[0] in families]


def test_all_families_come_in_tiny_and_small() -> None:
    families = sorted([*DECODERS, *ENCODERS])
    both = [f"{family}_{size}" for family in families for size in ("small", "tiny")]
    assert [*both, "t5_tiny"] == ARCHITECTURES


def proofs_of(
    overrides: list[str], rows: list[dict[str, object]]
) -> tuple[Bundle, dict[str, Proof]]:
    """Return the model of a stage and its preflight proofs by name."""
    config = next(iter(compose(overrides).stages.values()))
    objective, head = registry().build(config.objective), registry().build(config.head)
    assert isinstance(objective, Objective)
    assert isinstance(head, Head)
    tokenizer = byte_tokenizer()
    seed_everything(0)
    bundle = Bundle(head.load(config.model, tokenizer), tokenizer, head)
    proofs = prove(bundle, objective, list(objective.prepare(rows, tokenizer)), [])
    return bundle, {proof.name: proof for proof in proofs}


TEXTS: list[dict[str, object]] = [
    {"text": "The quick brown fox jumps."},
    {"text": "Over a lazy dog: ünd that's it!"},
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", of_families((*DECODERS, "bert")))
def test_every_architecture_of_decoders_proves_itself(name: str, attention: str) -> None:
    """It builds, packs with exact isolation, is causal, and its chunked loss is its own."""
    bundle, proofs = proofs_of([f"model={name}", f"model.attention={attention}"], TEXTS)
    assert proofs.keys() >= {
        "tokenizer ids < embedding rows",
        "every row has a label",
        "padding changes no loss",
        "packed documents are isolated",
        "accumulation changes no gradient",
        "no token sees the future",
        "the chunked loss equals the model's logits",
    }
    assert all(proof.holds for proof in proofs.values()), proofs
    assert is_causal(bundle.model)
    assert longest_context(bundle.model) == (1024 if name in LONGER else 512)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", of_families(ENCODERS))
def test_every_architecture_of_encoders_proves_itself(name: str, attention: str) -> None:
    """It builds, packs with exact isolation, and every token sees both sides."""
    overrides = ["stage=pretraining_mlm", f"model={name}", f"model.attention={attention}"]
    bundle, proofs = proofs_of(overrides, TEXTS)
    assert proofs.keys() >= {
        "tokenizer ids < embedding rows",
        "padding changes no logit",
        "packed documents are isolated",
        "every token sees both sides",
    }
    assert all(proof.holds is not False for proof in proofs.values()), proofs
    assert not is_causal(bundle.model)
    assert longest_context(bundle.model) == (1024 if name.startswith("modernbert") else 512)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_encoder_with_a_decoder_proves_itself(attention: str) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "a question", "completion": "its answer"},
        {"prompt": "another and longer one", "completion": "yes"},
    ]
    overrides = ["stage=sft_seq2seq", "model=t5_tiny", f"model.attention={attention}"]
    bundle, proofs = proofs_of(overrides, rows)
    assert all(proof.holds is not False for proof in proofs.values()), proofs
    assert bundle.model.config.is_encoder_decoder


LONGER = ("gpt2_small", "llama_small", "qwen_small")


def test_heads_that_cannot_share_their_keys_are_refused() -> None:
    config = {**TINY, "num_attention_heads": 2, "num_key_value_heads": 4}
    told = "num_attention_heads is 2 and num_key_value_heads is 4; expected a multiple of it"
    with pytest.raises(ConfigError, match=told):
        architecture(Model(config=config), byte_tokenizer(), {})


def test_the_vocabulary_and_special_ids_are_the_tokenizers() -> None:
    tokenizer = byte_tokenizer()
    config = architecture(Model(config=TINY), tokenizer, {})
    assert config.vocab_size == len(tokenizer)
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id


def test_a_vocabulary_that_was_set_is_kept() -> None:
    config = architecture(Model(config={**TINY, "vocab_size": 300}), byte_tokenizer(), {})
    assert config.vocab_size == 300


def test_names_of_the_family_are_taken_for_the_common_ones() -> None:
    gpt2 = {"model_type": "gpt2", "n_embd": 16, "num_hidden_layers": 3}
    config = architecture(Model(config=gpt2), byte_tokenizer(), {})
    assert (config.hidden_size, config.n_layer) == (16, 3)


def test_changes_reach_only_families_that_know_them() -> None:
    bert, decoder = Model(config={"model_type": "bert"}), {"is_decoder": True}
    assert architecture(bert, byte_tokenizer(), decoder).is_decoder
    llama = architecture(Model(config=TINY), byte_tokenizer(), {"no_such_thing": True})
    assert not hasattr(llama, "no_such_thing")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "no model: choose an architecture, such as model=llama_tiny, or set model.source"),
        ({"model_type": "lama"}, r"model.config.model_type is 'lama', .*\(did you mean 'llama'"),
        ({**TINY, "hiden_size": 3}, r"model.config.hiden_size is no option of llama \(did you"),
        ({**TINY, "hidden_size": "a"}, "model.config does not fit a llama model: .*hidden_size"),
        ({**TINY, "num_attention_heads": 5}, "model.config does not fit a llama model: .*multip"),
    ],
)
def test_an_architecture_that_cannot_be_is_one_line(config: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        architecture(Model(config=config), byte_tokenizer(), {})
    assert "\n" not in str(caught.value)


def test_attention_that_is_not_installed_is_one_line_with_its_key() -> None:
    config = architecture(Model(config=TINY, attention="sdpaa"), byte_tokenizer(), {})
    with pytest.raises(ConfigError, match=r"model.attention=sdpaa") as caught:
        random_weights(AutoModelForCausalLM, config)
    assert "\n" not in str(caught.value)


def test_random_weights_depend_on_the_seed_alone() -> None:
    first, second = load(Model(config=TINY)), load(Model(config=TINY))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_random_weights_are_float32_and_in_train_mode() -> None:
    model = load(Model(config=TINY, attention="eager"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.training
    assert model.config._attn_implementation == "eager"


def test_a_checkpoint_in_bfloat16_is_trained_in_float32(tmp_path: Path) -> None:
    model = load(Model(config=TINY))
    model.bfloat16()
    model.save_pretrained(tmp_path)
    loaded = load_pretrained(AutoModelForCausalLM, Model(source=str(tmp_path)), {})
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert loaded.training
    torch.testing.assert_close(
        loaded.get_input_embeddings().weight, model.get_input_embeddings().weight.float()
    )


def test_a_checkpoint_is_opened_with_the_attention_that_was_chosen(tmp_path: Path) -> None:
    load(Model(config=TINY)).save_pretrained(tmp_path)
    model = Model(source=str(tmp_path), attention="eager")
    assert load_pretrained(AutoModelForCausalLM, model, {}).config._attn_implementation == "eager"


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_one_line_with_its_key(damage: str, tmp_path: Path) -> None:
    load(Model(config=TINY)).save_pretrained(tmp_path)
    (tmp_path / damage).write_text("{torn")
    with pytest.raises(
        CheckpointError, match=r"model.source is .*, which cannot be open"
    ) as caught:
        load_pretrained(AutoModelForCausalLM, Model(source=str(tmp_path)), {})
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_a_family_that_the_head_lacks_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    told = (
        "a t5 model, which AutoModelForCausalLM does not open: choose a head of its kind .seq2seq"
    )
    with pytest.raises(CheckpointError, match=told) as caught:
        load_pretrained(AutoModelForCausalLM, Model(source=str(tmp_path)), {})
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_the_config_are_an_error(tmp_path: Path) -> None:
    load(Model(config=TINY)).save_pretrained(tmp_path)
    LlamaConfig(**{**TINY, "hidden_size": 64, "vocab_size": 259}).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="which cannot be opened"):
        load_pretrained(AutoModelForCausalLM, Model(source=str(tmp_path)), {})


def test_weights_that_are_missing_are_an_error_and_not_random(tmp_path: Path) -> None:
    load(Model(config=TINY)).save_pretrained(tmp_path)
    LlamaConfig(**{**TINY, "num_hidden_layers": 2, "vocab_size": 259}).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks .*model\.layers\.1"):
        load_pretrained(AutoModelForCausalLM, Model(source=str(tmp_path)), {})


def test_a_model_without_a_limit_has_no_longest_context() -> None:
    model = load(Model(config=TINY))
    assert longest_context(model) == 2048
    bloom = {"model_type": "bloom", "hidden_size": 16, "n_layer": 1, "n_head": 2}  # ALiBi
    config = architecture(Model(config=bloom, attention="eager"), byte_tokenizer(), {})
    assert longest_context(random_weights(AutoModelForCausalLM, config)) is None
