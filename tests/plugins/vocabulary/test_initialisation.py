"""Each way to make new rows against its formula, by hand or by another implementation."""
# N new tokens, V old tokens, D width

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ontogeny_plugins.vocabulary import Vocabulary
from ontogeny_plugins.vocabulary.expansion import Expansion
from ontogeny_plugins.vocabulary.initialisation.focus import focus, sparsemax
from ontogeny_plugins.vocabulary.initialisation.mean import mean, mean_noise
from ontogeny_plugins.vocabulary.initialisation.methods import METHODS, NEED_VECTORS
from ontogeny_plugins.vocabulary.initialisation.mixture import Known
from ontogeny_plugins.vocabulary.initialisation.omp import matching_pursuit, omp
from ontogeny_plugins.vocabulary.initialisation.random import random
from ontogeny_plugins.vocabulary.initialisation.subword import subword
from ontogeny_plugins.vocabulary.initialisation.vipi import partitions, vipi
from ontogeny_plugins.vocabulary.initialisation.wechsel import wechsel
from ontogeny_plugins.vocabulary.static_vectors import StaticVectors

VOCABULARY = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "cd": 5, "d": 6, "abc": 7}


def rows(seed: int = 0, count: int = 8, width: int = 5) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def known(
    pieces: list[list[int]],
    spellings: list[str] | None = None,
    vectors: StaticVectors | None = None,
    **changes: Any,
) -> Known:
    spellings = spellings or [f"new{number}" for number in range(len(pieces))]
    expansion = Expansion(8, spellings, pieces, 0, 0, 0, 1, 0, 1)
    return Known(expansion, VOCABULARY, "", vectors, Vocabulary(**changes))


def test_mean_is_the_mean_of_all_old_rows() -> None:
    old_VD = rows()
    expected_D = torch.tensor([sum(column) / 8 for column in old_VD.T.tolist()])
    assert torch.allclose(mean(known([[0], [1]]))(old_VD), expected_D.expand(2, -1))


def test_noise_has_its_share_of_the_old_rows_covariance() -> None:
    old_VD = rows(count=300, width=3) @ torch.tensor([[1.0, 0, 0], [2, 1, 0], [0, 1, 3]])
    torch.manual_seed(0)
    drawn_ND = mean_noise(known([[0]] * 4000, noise=0.25))(old_VD)
    expected_DD = 0.25 * torch.cov(old_VD.T, correction=0)
    assert torch.allclose(torch.cov(drawn_ND.T), expected_DD, atol=0.1 * float(expected_DD.max()))
    assert torch.allclose(drawn_ND.mean(0), old_VD.mean(0), atol=0.1)


def test_random_rows_have_the_mean_and_the_spread_of_each_column() -> None:
    old_VD = torch.tensor([[1.0, -10, 5], [3, 10, 5]])
    torch.manual_seed(0)
    drawn_ND = random(known([[0]] * 4000))(old_VD)
    assert drawn_ND.shape == (4000, 3)
    assert torch.allclose(drawn_ND.mean(0), torch.tensor([2.0, 0, 5]), atol=0.4)
    assert torch.allclose(drawn_ND.std(0), torch.tensor([1.0, 10, 0]), rtol=0.05)


def test_subword_is_the_mean_of_the_pieces_each_as_often_as_it_occurs() -> None:
    old_VD = rows()
    made_ND = subword(known([[2, 3, 2], [1]]))(old_VD)
    assert torch.allclose(made_ND[0], (2 * old_VD[2] + old_VD[3]) / 3)
    assert torch.equal(made_ND[1], old_VD[1])


def test_a_token_without_old_pieces_gets_the_mean() -> None:
    old_VD = rows()
    assert torch.allclose(subword(known([[]]))(old_VD)[0], old_VD.mean(0))


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("abcd", [["abc", "d"]]),  # two parts as ab + cd, with a longer one
        ("bcd", [["b", "cd"], ["bc", "d"]]),
        ("abab", [["ab", "ab"]]),
        ("ax", []),
    ],
)
def test_partitions_are_the_shortest_with_the_longest_part(
    spelling: str, expected: list[list[str]]
) -> None:
    found = partitions(spelling, VOCABULARY)
    assert sorted(found) == sorted([VOCABULARY[token] for token in way] for way in expected)


def test_partitions_go_on_in_a_word_with_its_prefix() -> None:
    vocabulary = {"ab": 0, "##c": 1, "##ab": 2, "c": 3, "##abc": 4}
    assert partitions("abc", vocabulary, "##") == [[0, 1]]
    assert partitions("##ababc", vocabulary, "##") == [[2, 4]]


def test_vipi_is_the_mean_over_all_best_partitions() -> None:
    old_VD = rows()
    made_ND = vipi(known([[0], [4, 6]], ["bcd", "xyz"]))(old_VD)
    expected_D = (old_VD[1] + old_VD[5] + old_VD[4] + old_VD[6]) / 4
    assert torch.allclose(made_ND[0], expected_D)
    assert torch.allclose(made_ND[1], (old_VD[4] + old_VD[6]) / 2)  # none: the pieces


def test_sparsemax_is_the_projection_onto_the_simplex() -> None:
    weights = sparsemax(torch.tensor([[0.5, 0.4, -1.0], [3.0, 0.1, 0.1], [0.2, 0.2, 0.2]]))
    expected = torch.tensor([[0.55, 0.45, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert torch.allclose(weights, expected)


def vectors(*of: tuple[int, list[float]]) -> StaticVectors:
    made = torch.tensor([vector for _, vector in of])
    return StaticVectors(
        torch.tensor([number for number, _ in of]), torch.nn.functional.normalize(made, dim=1)
    )


def test_focus_mixes_by_the_sparsemax_of_cosines() -> None:
    old_VD = rows()
    angle = math.radians(30)
    near = [math.cos(angle), math.sin(angle)]
    company = vectors((1, [1.0, 0.0]), (4, near), (6, [-1.0, 0.0]), (8, [1.0, 0.0]))
    made_ND = focus(known([[0, 2], [3]], vectors=company))(old_VD)
    gap = 1 - math.cos(angle)
    expected_D = (1 + gap) / 2 * old_VD[1] + (1 - gap) / 2 * old_VD[4]
    assert torch.allclose(made_ND[0], expected_D, atol=1e-6)
    assert torch.equal(made_ND[1], old_VD[3])  # without a vector: its pieces


def test_wechsel_mixes_the_ten_nearest_by_a_softmax() -> None:
    old_VD = rows(count=20)
    generator = np.random.default_rng(0)
    of = [(number, generator.normal(size=4).tolist()) for number in range(20)]
    company = vectors(*of, (20, [1.0, 0.5, 0.0, 0.0]))
    expansion = Expansion(20, ["x"], [[0]], 0, 0, 0, 1, 0, 1)
    given = Known(expansion, {}, "", company, Vocabulary())
    cosines = (company.vectors_ND[:20] @ company.vectors_ND[20]).double().numpy()
    nearest = np.argsort(-cosines)[:10]
    weights = np.exp(cosines[nearest] / 0.1)
    expected_D = weights @ old_VD.numpy()[nearest] / weights.sum()
    assert np.allclose(wechsel(given)(old_VD)[0], expected_D, atol=1e-5)


def test_matching_pursuit_takes_what_a_slow_reference_takes() -> None:
    old_AD, new_MD = rows(1, 40, 12), rows(2, 3, 12)
    old_AD = torch.nn.functional.normalize(old_AD, dim=1)
    for row, places in enumerate(matching_pursuit(new_MD, old_AD, 5).tolist()):
        chosen: list[int] = []
        residual = target = new_MD[row].double().numpy()
        for _ in range(5):
            chosen.append(int(np.abs(old_AD.double().numpy() @ residual).argmax()))
            basis = old_AD[chosen].double().numpy().T
            residual = target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]
        assert places == chosen


def test_omp_finds_a_sum_of_few_vectors_again() -> None:
    old_VD = rows(0, 40, 6)
    anchors_VD = torch.nn.functional.normalize(rows(1, 40, 64), dim=1)
    mixed_D = 0.8 * anchors_VD[3] - 0.5 * anchors_VD[17]
    length = float(mixed_D.norm())
    company = StaticVectors(torch.arange(41), torch.cat([anchors_VD, mixed_D[None] / length]))
    expansion = Expansion(40, ["x"], [[0]], 0, 0, 0, 1, 0, 1)
    made_ND = omp(Known(expansion, {}, "", company, Vocabulary()))(old_VD)
    mean_D = old_VD.mean(0)
    expected_D = mean_D + (0.8 * (old_VD[3] - mean_D) - 0.5 * (old_VD[17] - mean_D)) / length
    assert torch.allclose(made_ND[0], expected_D, atol=1e-4)


@pytest.mark.parametrize("name", NEED_VECTORS)
@pytest.mark.parametrize("ids", [(), (8, 9), (1, 2)], ids=["none", "new_only", "old_only"])
def test_without_company_a_token_gets_its_pieces_mean(name: str, ids: tuple[int, ...]) -> None:
    old_VD = rows()
    company = StaticVectors(torch.tensor(ids, dtype=torch.long), torch.ones(len(ids), 4) / 2)
    made_ND = METHODS[name](known([[2, 4], [1]], vectors=company))(old_VD)
    assert torch.allclose(made_ND, torch.stack([(old_VD[2] + old_VD[4]) / 2, old_VD[1]]), atol=1e-6)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_a_pure_function_of_torchs_seed(name: str) -> None:
    company = vectors(*((number, rows(number, 1, 20)[0].tolist()) for number in range(10)))
    made = METHODS[name](known([[0, 1], [2]], vectors=company))
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(made(rows(9)))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2]) == (name not in {"random", "mean_noise"})
