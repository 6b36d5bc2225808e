"""Static vectors: the counts, the information, and the company that tokens keep."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from ontogeny_plugins.vocabulary.static_vectors import (
    StaticVectors,
    positive_information,
    static_vectors,
)


def words(*vocabulary: str) -> Tokenizer:
    ids = {word: number for number, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel({**ids, "?": len(ids)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def similarity(found: StaticVectors, left: int, right: int) -> float:
    place = {number: place for place, number in enumerate(found.ids_N.tolist())}
    return float(found.vectors_ND[place[left]] @ found.vectors_ND[place[right]])


def test_information_is_the_log_of_observed_over_expected() -> None:
    left, right, counts = np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([8.0, 1.0, 1.0])
    values = positive_information(left, right, counts, 2)
    smoothed = 9**0.75 / (9**0.75 + 1)
    assert values[0] == pytest.approx(max(0, math.log(0.8 / (0.9 * smoothed))))
    assert values[1] == 0  # less often than by chance
    assert values[2] == pytest.approx(math.log(0.1 / (0.1 * smoothed)))


def test_words_in_the_same_company_are_near_each_other() -> None:
    generator = random.Random(0)
    texts = []
    for _ in range(400):
        animal, act = generator.choice(["cat", "dog"]), generator.choice(["purr", "sleep"])
        metal, use = generator.choice(["iron", "zinc"]), generator.choice(["melt", "rust"])
        texts += [f"the {animal} may {act}", f"some {metal} will {use}"]
    vocabulary = ["cat", "dog", "iron", "zinc", "purr", "sleep", "melt", "rust", "the", "may"]
    found = static_vectors(words(*vocabulary, "some", "will"), texts)
    assert similarity(found, 0, 1) > 0.9
    assert similarity(found, 0, 2) < 0.5
    assert similarity(found, 2, 3) > 0.9
    assert torch.allclose(found.vectors_ND.norm(dim=1), torch.ones(12))


def test_rare_tokens_have_no_vector_and_no_text_is_near_another() -> None:
    texts = ["a b"] * 5 + ["c"] * 9 + ["d e"] * 4
    found = static_vectors(words("a", "b", "c", "d", "e"), texts)
    assert found.ids_N.tolist() == [0, 1, 2]
    assert similarity(found, 0, 2) == 0


def test_vectors_are_the_same_every_time_whatever_torchs_seed_and_file(tmp_path: Path) -> None:
    generator = random.Random(0)
    letters = [*"abcdefgh"]
    texts = [" ".join(generator.choices(letters, k=9)) for _ in range(200)]
    first = static_vectors(words(*letters), texts)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    second = static_vectors(words(*letters), texts)
    torch.set_rng_state(state)
    first.save(tmp_path)
    for each in (second, StaticVectors.load(tmp_path)):
        assert torch.equal(each.ids_N, first.ids_N)
        assert torch.equal(each.vectors_ND, first.vectors_ND)


def test_a_text_where_all_is_rare_has_no_vectors() -> None:
    found = static_vectors(words("a", "b"), ["a b", "b"])
    assert found.ids_N.tolist() == []
    assert found.vectors_ND.shape[0] == 0
