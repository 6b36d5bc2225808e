"""Trimming: text comes back, texts of kept tokens keep their tokens, and so does the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.compression.conftest import World, sentences, value, write
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    PreTrainedTokenizerFast,
)

from ontogeny.errors import UserError
from ontogeny_plugins.compression.tokens import kept_tokens, rules_of, trimmed, with_rules
from ontogeny_plugins.compression.trimming import cut_rows, renumber

STRANGE = ["Ünïcode – 水 and 🙂!", "", " ", "\n\n\t x", "bada BADA 123456", "<|endoftext|>x"]


@pytest.fixture(scope="session")
def few(world: World) -> Path:
    """Return text that uses a part of the words."""
    return write(world.folder / "few.jsonl", sentences(4, seed=3))


def both(world: World, folder: Path) -> tuple[Any, Any, list[int]]:
    before, after = (AutoTokenizer.from_pretrained(each) for each in (world.checkpoint, folder))
    names = before.get_vocab()
    spelled = sorted((number, token) for token, number in after.get_vocab().items())
    return before, after, [names[token] for _, token in spelled]


def test_text_comes_back_and_its_tokens_stay_where_all_are_kept(world: World, few: Path) -> None:
    result = world.compress("adapter=[trimming]", f"adapter.trimming.path={few}")
    before, after, kept = both(world, result.checkpoint or Path())
    assert 256 < len(after) < len(before)
    for text in [*STRANGE, *sentences(50, seed=9)]:
        assert after.decode(after.encode(text)) == before.decode(before.encode(text)) == text
    for text in sentences(4, seed=3):
        assert [kept[number] for number in after.encode(text)] == before.encode(text)
    for number, old in enumerate(kept):
        assert after.decode([number]) == before.decode([old])


def test_the_model_says_the_same_of_the_tokens_that_stay(world: World, few: Path) -> None:
    result = world.compress("adapter=[trimming]", f"adapter.trimming.path={few}")
    before, after, kept = both(world, result.checkpoint or Path())
    text = sentences(4, seed=3)[0]
    old, new = (
        AutoModelForCausalLM.from_pretrained(each)(
            **tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        ).logits
        for each, tokenizer in ((world.checkpoint, before), (result.checkpoint, after))
    )
    torch.testing.assert_close(new, old[..., kept], rtol=1e-4, atol=1e-4)
    config = json.loads(((result.checkpoint or Path()) / "config.json").read_text())
    assert config["vocab_size"] == len(after)
    assert config["eos_token_id"] == after.eos_token_id
    assert value(result, "trimming", "covered") > 0.99


def test_a_limit_keeps_the_most_frequent_and_what_they_are_made_of(world: World) -> None:
    result = world.compress("adapter=[trimming]", "adapter.trimming.vocab_size=300")
    _, after, _ = both(world, result.checkpoint or Path())
    assert 290 < len(after) <= 300
    assert value(result, "trimming", "longer_text") > 0
    assert result.metrics["compression"]["perplexity"]["bits_per_byte"].value > 0


def test_the_preflight_proves_it(world: World, few: Path) -> None:
    world.compress("adapter=[trimming]", f"adapter.trimming.path={few}", "seed=3")
    assert any("text comes back in the same tokens  holds" in line for line in world.lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["adapter.trimming.vocab_size=20"], "258 tokens must stay"),
        (["adapter.trimming.min_count=0"], "min_count is 0; expected 1"),
        (["adapter.trimming.path=nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_cannot_be_trimmed_is_said_in_one_line(
    world: World, options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        world.compress("adapter=[trimming]", *options)
    assert "\n" not in str(caught.value)


def wordpiece() -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    backend.train_from_iterator(sentences(300, seed=1), trainer)
    return backend


def unigram() -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False
    )
    backend.train_from_iterator(sentences(300, seed=1), trainer)
    return backend


@pytest.mark.parametrize("train", [wordpiece, unigram])
def test_other_kinds_keep_the_tokens_of_texts_whose_tokens_all_stay(train: Any) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=train())
    rules = rules_of(tokenizer)
    used = {number for text in sentences(12, seed=2) for number in tokenizer.encode(text)}
    kept = kept_tokens(rules, tokenizer, sorted(used), [], None)
    after = with_rules(tokenizer, trimmed(rules, kept))
    assert len(kept) < len(tokenizer)
    checked = 0
    for text in sentences(200, seed=4):
        old = tokenizer.encode(text)
        assert after.decode(after.encode(text)) == tokenizer.decode(old)
        if set(old) <= set(kept):
            assert [kept[number] for number in after.encode(text)] == old
            checked += 1
    assert checked > 3


def test_rows_that_are_shared_and_their_bias_stay_shared() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    model = BertForMaskedLM(BertConfig(vocab_size=50, num_hidden_layers=1, **sizes))
    ids = torch.tensor([[4, 9, 7]])
    model.eval()
    kept = [0, 1, 4, 7, 9, 30]
    expected = model(ids).logits[..., kept].detach()
    cut_rows(model, kept)
    renumber(model, kept)
    found = model(torch.tensor([[2, 4, 3]])).logits
    torch.testing.assert_close(found, expected)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert model.bert.embeddings.word_embeddings.num_embeddings == model.config.vocab_size == 6


def test_special_ids_get_their_new_numbers() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = BertConfig(vocab_size=50, num_hidden_layers=1, pad_token_id=3, **sizes)
    model = BertLMHeadModel(config)
    model.generation_config.eos_token_id = [7, 9]
    model.generation_config.suppress_tokens = [3, 40]
    renumber(model, [3, 7, 9])
    assert model.config.pad_token_id == 0
    assert model.generation_config.eos_token_id == [1, 2]
    assert model.generation_config.suppress_tokens == [0]
