"""The model's side: rows for new tokens, what they take from old ones, and saved folders."""
# T tokens, V vocabulary

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, normalizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from ontogeny import ConfigError
from ontogeny.adapter import Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.data.corpus import Corpus
from ontogeny.head import Head
from ontogeny_plugins.vocabulary import Vocabulary
from ontogeny_plugins.vocabulary.adapter import VocabularyAdapter
from ontogeny_plugins.vocabulary.fertility import fertility
from ontogeny_plugins.vocabulary.proofs import divergences, ids_proof, text_proof
from ontogeny_plugins.vocabulary.rules import with_rules

NEW = 40
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
Make = Callable[[str], PreTrainedTokenizerBase]


class Plain(Head):
    def load(self, model: Any, tokenizer: Any) -> PreTrainedModel:
        raise NotImplementedError


def build(family: str, rows: int) -> PreTrainedModel:
    """Return a small model whose predictions are far from even."""
    torch.manual_seed(0)
    tied = family.endswith("_tied")
    model: PreTrainedModel
    match family.removesuffix("_tied"):
        case "llama":
            model = LlamaForCausalLM(
                LlamaConfig(**SIZES, vocab_size=rows, tie_word_embeddings=tied)
            )
        case "phi":  # its output layer has a bias
            model = PhiForCausalLM(PhiConfig(**SIZES, vocab_size=rows))
        case "bert":  # a bias, and tied
            model = BertForMaskedLM(BertConfig(**{**SIZES, "pad_token_id": 0}, vocab_size=rows))
        case _:  # logits with a soft cap
            model = Gemma2ForCausalLM(
                Gemma2Config(**SIZES, vocab_size=rows, num_key_value_heads=2, head_dim=16)
            )
    with torch.no_grad():
        for parameter in model.parameters():
            if len(parameter) == rows:
                parameter.normal_(0, 1)
    return model.eval()


def matrices(model: PreTrainedModel) -> list[Any]:
    return [model.get_input_embeddings().weight, model.get_output_embeddings().weight]


def output_bias(model: PreTrainedModel) -> Any:
    return model.get_output_embeddings().bias


def adapted(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, **options: Any
) -> tuple[VocabularyAdapter, Bundle]:
    adapter = VocabularyAdapter(Vocabulary(**{"size": NEW, **options}))
    adapter.extend(tokenizer, corpus)
    return adapter, adapter.apply(Bundle(model, tokenizer, Plain()))


FAMILIES = ["llama", "llama_tied", "phi", "bert_tied"]


@pytest.mark.parametrize(
    ("family", "init"), [*zip(FAMILIES, ["random", "subword", "focus", "mean"], strict=True)]
)
def test_rows_are_added_and_old_ones_stay(
    family: str, init: str, corpus: Corpus, tokenizer: Make
) -> None:
    given = tokenizer("byte_level")
    model, before = build(family, len(given)), build(family, len(given))
    _, bundle = adapted(corpus, given, model, init=init)
    assert len(bundle.tokenizer) == len(given) + NEW == model.config.vocab_size
    for weight, old in zip(matrices(model), matrices(before), strict=True):
        assert weight.shape == (len(given) + NEW, 32)
        assert torch.equal(weight[: len(given)], old)
    bias = output_bias(model)
    assert (bias is None) == family.startswith("llama")
    if bias is not None:
        assert torch.equal(bias[: len(given)], output_bias(before))
    first, last = matrices(model)
    assert (first is last) == family.endswith("_tied")


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_input_output_and_bias_are_made_alike(family: str, corpus: Corpus, tokenizer: Make) -> None:
    given = tokenizer("byte_level")
    model = build(family, len(given))
    adapter, bundle = adapted(corpus, given, model, init="subword")
    pieces = adapter._expansion.pieces[7]
    assert pieces == given(bundle.tokenizer.decode([len(given) + 7]))["input_ids"]
    for weight in matrices(model):
        made = weight[len(given) + 7]
        assert torch.allclose(made, weight[pieces].mean(0), atol=1e-6)
    if family == "phi":
        bias = output_bias(model)
        assert torch.allclose(bias[len(given) + 7], bias[pieces].mean(), atol=1e-6)


def test_rows_of_padding_are_used_first(corpus: Corpus, tokenizer: Make) -> None:
    given = tokenizer("byte_level")
    model = build("llama", len(given) + NEW + 9)
    kept = model.lm_head.weight[-9:].clone()
    adapted(corpus, given, model, init="mean")
    assert len(model.lm_head.weight) == len(given) + NEW + 9
    assert torch.equal(model.lm_head.weight[-9:], kept)
    mean_D = model.lm_head.weight[: len(given)].mean(0)
    assert torch.allclose(model.lm_head.weight[len(given) + NEW - 1], mean_D, atol=1e-6)


def probabilities(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits.double().softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_rows_keep_the_divergence_within_its_bound(
    family: str, corpus: Corpus, tokenizer: Make, held_out: list[str]
) -> None:
    given = tokenizer("byte_level")
    model, before = build(family, len(given)), build(family, len(given))
    adapter, _ = adapted(corpus, given, model, init="mean")
    ids = torch.tensor([given(held_out[0])["input_ids"][:24]])
    p_TV, q_TV = probabilities(before, ids)[0], probabilities(model, ids)[0, :, : len(given)]
    divergence_T = (p_TV * (p_TV.log() - q_TV.log())).sum(-1)
    bound = math.log(1 + NEW / len(given))
    assert 0 < float(divergence_T.max()) <= bound
    measured = divergences(model, adapter._expansion, {"input_ids": ids})
    assert measured is not None
    assert torch.allclose(measured, divergence_T, atol=1e-5)


def test_random_rows_break_the_bound_that_mean_rows_keep(
    corpus: Corpus, tokenizer: Make, held_out: list[str]
) -> None:
    given = tokenizer("byte_level")
    ids = torch.tensor([given(held_out[0])["input_ids"][:24]])
    largest = {}
    for init in ("mean", "random"):
        model = build("llama", len(given))
        adapter, _ = adapted(corpus, given, model, init=init)
        found_N = divergences(model, adapter._expansion, {"input_ids": ids})
        assert found_N is not None
        largest[init] = float(found_N.max())
    bound = math.log(1 + NEW / len(given))
    assert largest["mean"] <= bound
    assert largest["random"] > 10 * bound


def proofs(adapter: VocabularyAdapter, bundle: Bundle, text: str) -> dict[str, Any]:
    ids = torch.tensor([bundle.tokenizer(text)["input_ids"]])
    return {proof.name: proof for proof in adapter.proofs(bundle, {"input_ids": ids})}


def test_the_proofs_hold(corpus: Corpus, tokenizer: Make, held_out: list[str]) -> None:
    model = build("llama", len(tokenizer("byte_level")))
    adapter, bundle = adapted(corpus, tokenizer("byte_level"), model, init="mean")
    found = proofs(adapter, bundle, held_out[0])
    assert [proof.holds for proof in found.values()] == [True, True, True]
    evidence = found["text comes back as before"].evidence
    assert evidence == "16 of 16 texts come back exactly, 0 otherwise than before"


def test_the_bound_is_only_promised_for_mean_and_for_linear_logits(
    corpus: Corpus, tokenizer: Make, held_out: list[str]
) -> None:
    for family, init in (("llama", "random"), ("gemma", "mean")):
        model = build(family, len(tokenizer("byte_level")))
        adapter, bundle = adapted(corpus, tokenizer("byte_level"), model, init=init)
        found = proofs(adapter, bundle, held_out[0])
        assert found["new tokens take their share at most"].holds is None


def test_an_encoder_with_a_decoder_is_expanded_alike(
    corpus: Corpus, tokenizer: Make, held_out: list[str]
) -> None:
    given = tokenizer("unigram")
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(**sizes, vocab_size=len(given))).eval()
    adapter, bundle = adapted(corpus, given, model, init="mean")
    for embedding in (model.encoder.embed_tokens, model.decoder.embed_tokens, model.lm_head):
        assert embedding.weight is model.shared.weight
    assert len(model.shared.weight) == len(given) + NEW
    ids = torch.tensor([bundle.tokenizer(held_out[0])["input_ids"]])
    batch = {"input_ids": ids, "decoder_input_ids": ids[:, :5]}
    assert [proof.holds for proof in adapter.proofs(bundle, batch)] == [True, True, True]


@pytest.mark.parametrize("text", ["line\nline", "two  spaces"])
def test_text_that_comes_back_otherwise_is_found(text: str, tokenizer: Make) -> None:
    given, changed = tokenizer("byte_level"), tokenizer("byte_level")
    assert given.unk_token is None
    changed.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    assert text_proof(given, given, [text]).holds
    assert not text_proof(given, changed, [text]).holds


def test_what_was_unknown_may_come_back_otherwise(tokenizer: Make) -> None:
    given = tokenizer("unigram")
    rules = json.loads(given.backend_tokenizer.to_str())
    rules["model"]["vocab"].append(["ξ", -5.0])
    after = with_rules(given, rules)
    assert after.decode(after("a ξ")["input_ids"]) != given.decode(given("a ξ")["input_ids"])
    assert text_proof(given, after, ["a ξ"]).holds


def test_a_moved_id_and_lost_text_are_found(tokenizer: Make) -> None:
    one, other = tokenizer("byte_level"), tokenizer("wordpiece")
    assert ids_proof(one, one).holds
    assert not ids_proof(one, other).holds
    assert not text_proof(one, other, ["A text, with a Capital."]).holds


def test_the_same_seed_gives_the_same_model(corpus: Corpus, tokenizer: Make) -> None:
    rows = []
    for _ in range(2):
        model = build("llama", len(tokenizer("byte_level")))
        torch.manual_seed(5)
        adapted(corpus, tokenizer("byte_level"), model, init="mean_noise")
        rows.append(model.lm_head.weight)
    assert torch.equal(rows[0], rows[1])


def test_the_given_tokenizer_is_not_touched(corpus: Corpus, tokenizer: Make) -> None:
    given = tokenizer("byte_level")
    rules = given.backend_tokenizer.to_str()
    extended = VocabularyAdapter(Vocabulary(size=NEW)).extend(given, corpus)
    assert given.backend_tokenizer.to_str() == rules
    assert len(extended) == len(given) + NEW


def test_an_expansion_is_found_in_the_store_again(corpus: Corpus, tokenizer: Make) -> None:
    first = VocabularyAdapter(Vocabulary(size=NEW, init="wechsel"))
    rules = first.extend(tokenizer("byte_level"), corpus).backend_tokenizer.to_str()
    made = {file: file.stat().st_mtime_ns for file in corpus.store.root.rglob("*.json")}
    given = tokenizer("byte_level")
    given("x", truncation=True, max_length=3)  # how it was last called is not what it is
    again = VocabularyAdapter(Vocabulary(size=NEW, init="omp"))
    extended = again.extend(given, corpus)
    assert {file: file.stat().st_mtime_ns for file in corpus.store.root.rglob("*.json")} == made
    extended("x", truncation=False)
    assert extended.backend_tokenizer.to_str() == rules


def test_a_wrapped_embedding_is_told_to_come_later(corpus: Corpus, tokenizer: Make) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = build("llama", len(tokenizer("byte_level")))
    inject_adapter_in_model(LoraConfig(target_modules=["embed_tokens"]), model)
    with pytest.raises(
        ConfigError, match=r"put vocabulary first, as in 'adapter=\[vocabulary,lora"
    ):
        adapted(corpus, tokenizer("byte_level"), model)


def native(kind: str, given: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer of a model family's own class, which builds itself out of parts."""
    rules = json.loads(given.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in rules.get("merges", [])]
    match kind:
        case "gpt2":
            return GPT2Tokenizer(vocab=rules["vocab"], merges=merges, eos_token="<|end|>")
        case "qwen2":
            return Qwen2Tokenizer(
                vocab=rules["vocab"], merges=merges, extra_special_tokens=["<|im_start|>"]
            )
        case "llama":
            return LlamaTokenizer(vocab=rules["vocab"], merges=merges)
        case "bert":
            return BertTokenizer(vocab=rules["vocab"])
    return T5Tokenizer(vocab=[tuple(pair) for pair in rules["vocab"]], extra_ids=3)


CLASSES = {
    "plain_bpe": "byte_level",
    "plain_sentencepiece": "sentencepiece",
    "plain_wordpiece": "wordpiece",
    "plain_unigram": "unigram",
    "gpt2": "byte_level",
    "qwen2": "byte_level",
    "llama": "sentencepiece",
    "bert": "wordpiece",
    "t5": "unigram",
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_saved_folder_opens_in_plain_transformers(
    name: str, corpus: Corpus, tokenizer: Make, held_out: list[str], tmp_path: Path
) -> None:
    given = tokenizer(CLASSES[name])
    given = given if name.startswith("plain_") else native(name, given)
    masked = CLASSES[name] == "wordpiece"
    model = build("bert_tied" if masked else "llama_tied", len(given))
    adapter, bundle = adapted(corpus, given, model)
    save_checkpoint(adapter.settle(bundle), tmp_path / "saved", {})
    opened = AutoTokenizer.from_pretrained(tmp_path / "saved")
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path / "saved")
    old = given.get_vocab()
    assert {token: opened.convert_tokens_to_ids(token) for token in old} == old
    assert len(opened) == len(given) + NEW == loaded.config.vocab_size
    assert opened.all_special_ids == given.all_special_ids
    for text in held_out:
        ids = bundle.tokenizer(text)["input_ids"]
        assert opened(text)["input_ids"] == ids
        assert len(ids) <= len(given(text)["input_ids"])
    batch = opened(held_out[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=batch).logits, model(input_ids=batch).logits)


def test_gpt2_keeps_its_tie(corpus: Corpus, tokenizer: Make) -> None:
    given = tokenizer("byte_level")
    ids = {"bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(given), n_embd=32, n_layer=1, n_head=2, **ids)
    )
    adapted(corpus, given, model)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert (
        model(input_ids=torch.tensor([[len(given) + NEW - 1]])).logits.shape[-1] == len(given) + NEW
    )


def test_held_out_text_is_measured_as_encoding_says(corpus: Corpus, tokenizer: Make) -> None:
    said: list[str] = []
    given = tokenizer("byte_level")
    adapter = VocabularyAdapter(Vocabulary(size=NEW))
    extended = adapter.extend(given, replace(corpus, announce=said.append))
    texts = [str(row["text"]) for row in corpus.held_out("data")]
    words, size = sum(len(text.split()) for text in texts), sum(len(t.encode()) for t in texts)
    old, new = (sum(len(each(t)["input_ids"]) for t in texts) for each in (given, extended))
    assert new < old
    assert said[-1].endswith(
        f"{old / words:.3f} → {new / words:.3f} tokens per word, "
        f"{old / size:.4f} → {new / size:.4f} tokens per byte"
    )
    assert said[0] == f"vocabulary: {NEW} new tokens: {NEW} picked; {len(extended)} in all"
    measured = {name: metric.value for name, metric in adapter.metrics().items()}
    assert measured == {
        "new_tokens": NEW,
        "tokens_per_word_before": old / words,
        "tokens_per_word_after": new / words,
        "tokens_per_byte_before": old / size,
        "tokens_per_byte_after": new / size,
    }


def test_a_han_or_kana_is_a_word_as_what_stands_between_spaces(tokenizer: Make) -> None:
    given = tokenizer("byte_level")
    assert fertility(given, ["heart, attack", "心肌梗死 ist かな。"]).words == 2 + 4 + 1 + 2 + 1
    assert fertility(given, []).words == 0
