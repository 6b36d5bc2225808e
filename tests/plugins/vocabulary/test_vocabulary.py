"""The adapter in a stage: from the command line to a folder that opens anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer

from ontogeny import ConfigError, DataError
from ontogeny.data.corpus import Corpus
from ontogeny.options import Data, Source
from ontogeny.store import Store
from ontogeny.testing.resume import check_resume
from ontogeny.testing.trial import trial
from ontogeny_plugins.vocabulary import Vocabulary
from ontogeny_plugins.vocabulary.adapter import VocabularyAdapter
from ontogeny_plugins.vocabulary.rules import pin_added_tokens, rules_of
from ontogeny_plugins.vocabulary.texts import domain_sources, texts_of, training_texts

SMALL = ["adapter=[vocabulary]", "adapter.vocabulary.size=10", "adapter.vocabulary.min_saved=2"]


def test_a_run_expands_the_vocabulary_and_its_folder_opens_in_plain_transformers(
    tiny_run: Callable, home: Path
) -> None:
    ended = tiny_run(*SMALL, "adapter.vocabulary.init=mean", "adapter.vocabulary.warmup=[1,0]")
    assert ended.code == 0, ended.err
    assert "vocabulary: 10 new tokens: 10 picked; 310 in all" in ended.out
    for proof in ("old tokens keep their ids", "text comes back", "new tokens take their share"):
        line = next(line for line in ended.out.splitlines() if proof in line)
        assert " holds " in line
    folder = next(home.glob("stages/*/checkpoint"), None) or next(home.rglob("checkpoint"))
    metrics = json.loads((folder.parent / "metrics.json").read_text())
    measured = metrics["pretraining"]["vocabulary"]
    assert measured["new_tokens"] == {"value": 10, "unit": "tokens", "low": None, "high": None}
    after, before = (measured[f"tokens_per_byte_{when}"]["value"] for when in ("after", "before"))
    assert 0 < after <= before
    tokenizer, model = (
        auto.from_pretrained(folder) for auto in (AutoTokenizer, AutoModelForCausalLM)
    )
    assert len(tokenizer) == model.config.vocab_size == 310
    ids = tokenizer("the river stone of a wind", return_tensors="pt")["input_ids"]
    assert int(ids.max()) >= 300
    assert torch.isfinite(model(input_ids=ids).logits).all()


def test_a_run_that_was_cut_off_ends_in_the_same_bytes(text_file: Path) -> None:
    overrides = [*SMALL, "adapter.vocabulary.init=mean_noise", "adapter.vocabulary.warmup=[1,2]"]
    with trial("adapter", "vocabulary", "pretraining", [*overrides, *QUICK]) as made:
        check_resume(made, text_file)


QUICK = [
    "stage.sample_tokens=0",
    "model.config.hidden_size=16",
    "model.config.intermediate_size=16",
    "model.config.num_hidden_layers=1",
    "model.config.num_attention_heads=2",
    "model.config.num_key_value_heads=2",
]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("adapter.vocabulary.size=0", "adapter.vocabulary.size is 0; expected 1 or more"),
        ("adapter.vocabulary.init=fvt", "init is 'fvt'; expected one of subword, mean, mean_noise"),
        ("adapter.vocabulary.warmup=[3]", "warmup is [3]; expected two numbers of steps"),
        ("adapter.vocabulary.warmup=[3,-1]", "warmup is -1; expected 0 or more"),
        ("adapter.vocabulary.megabytes=0", "megabytes is 0.0; expected more than 0"),
        ("adapter.vocabulary.source=dta", "source is 'dta', no source of this stage (did you mean"),
        ("adapter.vocabulary.noise=0.1", "nothing reads adapter.vocabulary.noise"),
        ("tokenizer.algorithm=characters", "the tokenizer is of the type WordLevel"),
        ("adapter.vocabulary.tokens_file=none.txt", "none.txt does not exist"),
    ],
)
def test_what_cannot_be_is_told_before_the_run(
    override: str, words: str, tiny_run: Callable
) -> None:
    ended = tiny_run(*SMALL, override)
    assert ended.code == 2
    assert words in ended.err


def test_a_tokenizer_without_rules_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the tokenizer is ByT5Tokenizer, which has no rules"):
        rules_of(ByT5Tokenizer())


def test_a_unigram_vocabulary_with_a_gap_is_refused() -> None:
    rules = {"model": {"vocab": [["a", -1.0]]}, "added_tokens": [{"id": 5, "content": "<x>"}]}
    with pytest.raises(
        ConfigError, match=r"no token of the Unigram tokenizer has the id 1, though"
    ):
        pin_added_tokens(rules)


def corpus(folder: Path, **sources: list[dict[str, object]]) -> Corpus:
    named = {}
    for name, rows in sources.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        named[name] = Source(str(file))
    columns = [("text",), ("prompt", "completion"), ("messages",)]
    return Corpus(Data(sources=named), columns, Store(folder / "store"), lambda _: None)


def test_the_source_called_domain_is_meant_unless_another_is_named(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": "a"}]
    both = corpus(tmp_path, general=rows, domain=rows)
    assert domain_sources(both, None) == ["domain"]
    assert domain_sources(both, "general") == ["general"]
    assert domain_sources(corpus(tmp_path, one=rows, two=rows), None) == ["one", "two"]


def test_rows_of_every_format_have_their_texts() -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]
    assert list(texts_of({"text": "a", "id": "no"})) == ["a"]
    assert list(texts_of({"prompt": "p", "completion": "c"})) == ["p", "c"]
    assert list(texts_of({"messages": messages})) == ["q"]
    assert list(texts_of({"chosen": messages, "rejected": messages})) == ["q"]
    assert list(texts_of({"tokens": ["two", "words"], "tags": [0, 1]})) == ["two words"]


def test_no_more_text_is_read_than_asked_for(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"{number:04d}é"} for number in range(500)]
    given = replace(corpus(tmp_path, domain=rows), data=Data(path=str(tmp_path / "domain.jsonl")))
    texts = list(training_texts(given, ["data"], limit=30))
    assert sum(len(text.encode()) for text in texts) == 30


def test_a_source_without_text_is_told(tmp_path: Path) -> None:
    from ontogeny.testing import byte_tokenizer

    rows: list[dict[str, object]] = [{"label": number} for number in range(9)]
    given = replace(corpus(tmp_path, domain=rows), columns=[("label",)])
    with pytest.raises(
        DataError, match=r"adapter\.vocabulary finds no text to pick tokens from in"
    ):
        VocabularyAdapter(Vocabulary()).extend(byte_tokenizer(), given)


def test_what_is_said_names_tokens_listed_needed_and_picked(
    tmp_path: Path, domain: list[str]
) -> None:
    from ontogeny.testing import byte_tokenizer

    said: list[str] = []
    rows: list[dict[str, object]] = [{"text": text} for text in domain[:20]]
    given = replace(corpus(tmp_path, domain=rows), announce=said.append)
    options = Vocabulary(tokens=["iodine"], size=10_000, min_saved=20)
    VocabularyAdapter(options).extend(byte_tokenizer(), given)
    assert "1 listed, 5 that those are merged from, " in said[0]
    assert "(10,000 were asked for: no other one saves enough)" in said[0]
    assert said[1].startswith("vocabulary: such as ")
    assert "tokens (" in said[2]
