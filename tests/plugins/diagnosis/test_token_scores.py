"""Scores of tokens against those of whole texts, and against the logits of transformers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.plugins.diagnosis.conftest import KNOWN, World
from transformers import AutoModelForCausalLM, AutoTokenizer

from ontogeny.adapter import Bundle
from ontogeny.plugins import registry
from ontogeny.scoring import score_texts
from ontogeny_plugins.diagnosis.measuring import score
from ontogeny_plugins.diagnosis.token_scores import lines_of, token_log_probs
from ontogeny_plugins.diagnosis.trigram import Trigram

TEXTS = [row["text"] for row in KNOWN.rows(9, seed=3)] + ["", "b", " ".join(["bade"] * 90)]


@pytest.fixture(scope="module")
def bundle(world: World) -> Bundle:
    model = AutoModelForCausalLM.from_pretrained(world.checkpoint).eval()
    options = registry().get("head", "causal_lm").component.config()
    head = registry().build(options)
    return Bundle(model, AutoTokenizer.from_pretrained(world.checkpoint), head)  # type: ignore[arg-type]


def test_the_scores_of_tokens_add_up_to_those_of_texts(bundle: Bundle) -> None:
    with torch.no_grad():
        expected = score_texts(bundle, TEXTS, length=16, batch_size=4)
        found = score(bundle, TEXTS, {}, length=16, batch_size=3)
    assert found.nats == pytest.approx(expected.nats_N.tolist(), rel=1e-5, abs=1e-6)
    assert found.tokens == expected.tokens_N.tolist()
    assert found.bytes == expected.bytes_N.tolist()
    assert found.bits_per_byte == pytest.approx(expected.bits_per_byte, rel=1e-5)


def test_each_score_is_the_log_probability_of_its_token(bundle: Bundle) -> None:
    lines = lines_of(TEXTS, bundle.tokenizer)
    with torch.no_grad():
        found = token_log_probs(bundle, lines, length=64, batch_size=5)
        ids = torch.tensor([lines[0]])
        log_probs = bundle.model(ids[:, :-1]).logits.log_softmax(-1)
    expected = log_probs.gather(-1, ids[:, 1:, None]).flatten()
    assert found[0] == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)


def test_what_a_text_teaches_is_the_gain_of_the_mixture(bundle: Bundle) -> None:
    texts = ["fini fini fini", "fini fini"]
    teacher = Trigram(lines_of(["fini fini fini fini"], bundle.tokenizer), len(bundle.tokenizer))
    with torch.no_grad():
        found = score(bundle, texts, {"own": teacher}, length=64, batch_size=2)
    assert found.learnable("own") == pytest.approx(1 - sum(found.taught["own"]) / sum(found.nats))
    assert found.learnable("own") > 0.5
    assert len(found.taught["own"]) == 2


def test_tokens_are_counted_in_full_where_nothing_begins_a_text(bundle: Bundle) -> None:
    bare = AutoTokenizer.from_pretrained(bundle.tokenizer.name_or_path)
    bare.bos_token = bare.eos_token = None
    bare.unk_token = "e"
    with torch.no_grad():
        found = score(replace(bundle, tokenizer=bare), ["bade bade"], {}, length=64, batch_size=2)
    ids = bare("bade bade", add_special_tokens=False)["input_ids"]
    assert found.tokens == [len(ids)]
    assert found.unknown == [ids.count(bare.unk_token_id)]


def test_tokens_per_word_and_per_byte_are_counted(bundle: Bundle) -> None:
    with torch.no_grad():
        found = score(bundle, ["bade bade"], {}, length=64, batch_size=2)
    ids = bundle.tokenizer("bade bade", add_special_tokens=False)["input_ids"]
    assert found.tokens_per_word == len(ids) / 2
    assert found.tokens_per_byte == len(ids) / 9
    assert found.bits_per_byte == pytest.approx(found.nats[0] / math.log(2) / 9)
    assert np.isfinite(found.nats).all()
