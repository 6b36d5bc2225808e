"""InfoNCE and retrieval against the definition, written out."""
# B rows, D width

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from ontogeny import ConfigError, DataError
from ontogeny.adapter import Bundle
from ontogeny.errors import RowError
from ontogeny.evaluator import EvaluationData, Metrics
from ontogeny.objective import Loss
from ontogeny.options import Data
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.heads import Contrastive, RetrievalMetrics
from ontogeny_plugins.heads.contrastive import ContrastiveObjective
from ontogeny_plugins.heads.retrieval import RetrievalEvaluator

WIDTH = 5


class Vectors(nn.Module):
    """Gives each text the vector of its first token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(300, WIDTH)
        self.config = LlamaConfig()

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(embeddings=self.table(input_ids[:, 0]))

    def cosine(self, one: str, other: str) -> float:
        left, right = (
            self.table.weight[byte_tokenizer()(text)["input_ids"][0]].detach()
            for text in (one, other)
        )
        return float(torch.nn.functional.cosine_similarity(left, right, dim=0))


def loss_of(model: nn.Module, rows: list[dict[str, str]], **options: Any) -> Loss:
    objective = ContrastiveObjective(Contrastive(**options))
    objective.max_length = 16
    examples = list(objective.prepare(rows, byte_tokenizer()))
    with torch.no_grad():
        return objective.loss(model, objective.collate(examples))


def pairs(*texts: str) -> list[dict[str, str]]:
    return [{"prompt": text[0], "completion": text[1:]} for text in texts]


def test_the_loss_is_minus_the_log_of_the_share_of_the_own_text() -> None:
    model, temperature = Vectors(), 0.3
    rows = pairs("ax", "by", "cz")
    expected = 0.0
    for number, row in enumerate(rows):
        shares = [
            math.exp(model.cosine(row["prompt"], other["completion"]) / temperature)
            for other in rows
        ]
        expected -= math.log(shares[number] / sum(shares))
    found = loss_of(model, rows, temperature=temperature)
    assert float(found.total) == pytest.approx(expected, rel=1e-5)
    assert float(found.weight) == 3


def test_texts_that_are_all_alike_leave_the_logarithm_of_the_rows() -> None:
    model = Vectors()
    nn.init.ones_(model.table.weight)
    found = loss_of(model, pairs("ax", "by", "cz", "dw"))
    assert float(found.total / found.weight) == pytest.approx(math.log(4), rel=1e-6)


def test_the_symmetric_loss_is_the_mean_of_both_directions() -> None:
    model = Vectors()
    there = pairs("ax", "by", "cz")
    back = [{"prompt": row["completion"], "completion": row["prompt"]} for row in there]
    both = loss_of(model, there, symmetric=True).total
    mean = (loss_of(model, there).total + loss_of(model, back).total) / 2
    torch.testing.assert_close(both, mean)


def test_a_rejected_text_is_one_more_wrong_answer_for_every_row() -> None:
    model, temperature = Vectors(), 0.5
    rows = [
        {"prompt": "a", "chosen": "x", "rejected": "m"},
        {"prompt": "b", "chosen": "y", "rejected": "n"},
    ]
    expected = 0.0
    for row in rows:
        texts = [each["chosen"] for each in rows] + [each["rejected"] for each in rows]
        shares = {text: math.exp(model.cosine(row["prompt"], text) / temperature) for text in texts}
        expected -= math.log(shares[row["chosen"]] / sum(shares.values()))
    found = loss_of(model, rows, temperature=temperature)
    assert float(found.total) == pytest.approx(expected, rel=1e-5)


def test_the_same_text_in_another_row_is_no_wrong_answer() -> None:
    model, temperature = Vectors(), 0.5
    rows = pairs("ax", "bx", "cz")
    a_x, a_z = (math.exp(model.cosine("a", text) / temperature) for text in "xz")
    b_x, b_z = (math.exp(model.cosine("b", text) / temperature) for text in "xz")
    c_x, c_z = (math.exp(model.cosine("c", text) / temperature) for text in "xz")
    shares = [a_x / (a_x + a_z), b_x / (b_x + b_z), c_z / (2 * c_x + c_z)]
    found = loss_of(model, rows, temperature=temperature)
    assert float(found.total) == pytest.approx(-sum(map(math.log, shares)), rel=1e-5)


def test_a_text_that_is_too_long_is_cut_and_counted() -> None:
    objective = ContrastiveObjective(Contrastive())
    objective.max_length = 4
    rows = [{"prompt": "short", "completion": "no"}, {"prompt": "a", "completion": "b"}]
    examples = list(objective.prepare(rows, byte_tokenizer()))
    assert [len(example["anchor_input_ids"]) for example in examples] == [4, 1]
    assert [int(example["truncated"]) for example in examples] == [1, 0]


@pytest.mark.parametrize("value", [[{"role": "user", "content": "hi"}], "  "])
def test_a_row_without_texts_is_named(value: object) -> None:
    objective = ContrastiveObjective(Contrastive())
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": value}]
    with pytest.raises(RowError, match=r"completion is .*; expected text") as error:
        list(objective.prepare(rows, byte_tokenizer()))
    assert error.value.index == 1


def test_a_temperature_is_above_zero() -> None:
    with pytest.raises(ConfigError, match=r"objective.temperature is 0; expected more than 0"):
        Contrastive(temperature=0)


# ------------------------------------------------------------------------------------- retrieval


def measure(model: nn.Module, rows: list[dict[str, str]]) -> Metrics:
    bundle = Bundle(cast("Any", model), byte_tokenizer(), cast("Any", None))
    evaluator = RetrievalEvaluator(RetrievalMetrics(batch_size=3, resamples=20))
    data = EvaluationData({"data": rows}, Data(max_length=16))
    evaluator.check(bundle, data)
    with torch.no_grad():
        return evaluator.evaluate(bundle, data)


def test_ranks_are_those_of_the_cosines_one_by_one() -> None:
    model = Vectors()
    letters = "abcdefghijklmnop"
    rows = pairs(*(letter + letter.upper() for letter in letters))
    ranks = []
    for row in rows:
        own = model.cosine(row["prompt"], row["completion"])
        others = [model.cosine(row["prompt"], each["completion"]) for each in rows]
        ranks.append(sum(other > own for other in others) + 1)
    found = measure(model, rows)
    assert 1 < np.mean(ranks) < 16
    assert found["recall_at_1"].value == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert found["recall_at_10"].value == pytest.approx(np.mean([rank <= 10 for rank in ranks]))
    expected = np.mean([1 / rank for rank in ranks])
    assert found["mean_reciprocal_rank"].value == pytest.approx(expected)


def test_a_text_that_stands_twice_competes_once_and_never_with_itself() -> None:
    model = Vectors()
    once = measure(model, pairs("aA", "bB", "cC"))
    twice = measure(model, [*pairs("aA", "bB", "cC"), *pairs("aA", "bB", "cC")])
    for name, metric in once.items():
        assert twice[name].value == pytest.approx(metric.value)


def test_without_rows_there_is_nothing_to_find() -> None:
    with pytest.raises(DataError, match="no held-out rows to evaluate on"):
        measure(Vectors(), [])
