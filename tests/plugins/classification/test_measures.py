"""Every number against plain Python, and against scikit-learn where it is installed."""
# N rows, C classes

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from ontogeny_plugins.classification import measures

ROWS, CLASSES = 60, 4


@pytest.fixture
def predicted() -> tuple[Tensor, Tensor]:
    """Return probabilities, [N, C], with ties, and classes, [N]."""
    generator = torch.Generator().manual_seed(0)
    logits_NC = torch.randn(ROWS, CLASSES, generator=generator)
    targets_N = torch.randint(CLASSES, (ROWS,), generator=generator)
    logits_NC[torch.arange(ROWS), targets_N] += 0.7
    return (logits_NC * 2).round().div(2).softmax(-1), targets_N


def values(found: dict[str, measures.Measure], rows: int = ROWS) -> dict[str, float]:
    return {name: measure(np.arange(rows)) for name, measure in found.items()}


def f1_by_hand(said: list[int], true: list[int], number: int) -> float:
    both = sum(one == other == number for one, other in zip(said, true, strict=True))
    total = said.count(number) + true.count(number)
    return 2 * both / total if total else 0.0


def area_by_hand(scores: list[float], positive: list[bool]) -> float:
    """Return the share of pairs in the right order; ties are half right."""
    pairs = [
        (one, other)
        for (one, is_one), (other, is_other) in product(
            zip(scores, positive, strict=True), repeat=2
        )
        if is_one and not is_other
    ]
    return sum((one > other) + (one == other) / 2 for one, other in pairs) / len(pairs)


def test_single_labels_by_hand(predicted: tuple[Tensor, Tensor]) -> None:
    found_NC, targets_N = predicted
    said, true = found_NC.argmax(-1).tolist(), targets_N.tolist()
    found = values(measures.single_label_measures(found_NC, targets_N, 15))
    hits = [one == other for one, other in zip(said, true, strict=True)]
    assert found["accuracy"] == found["micro_f1"] == pytest.approx(sum(hits) / ROWS)
    f1 = [f1_by_hand(said, true, number) for number in range(CLASSES)]
    assert found["macro_f1"] == pytest.approx(sum(f1) / CLASSES, rel=1e-6)
    areas = [
        area_by_hand(found_NC[:, number].tolist(), [each == number for each in true])
        for number in range(CLASSES)
    ]
    assert found["auroc"] == pytest.approx(sum(areas) / CLASSES)
    confidence = found_NC.max(-1).values.tolist()
    bins = Counter(min(int(each * 15), 14) for each in confidence)
    error = 0.0
    for number in bins:
        inside = [row for row in range(ROWS) if min(int(confidence[row] * 15), 14) == number]
        gap = sum(hits[row] - confidence[row] for row in inside)
        error += abs(gap) / ROWS
    assert found["calibration_error"] == pytest.approx(error, abs=1e-6)


def test_f1_of_each_class_and_the_confusion_matrix_by_hand(
    predicted: tuple[Tensor, Tensor],
) -> None:
    found_NC, targets_N = predicted
    said_N, names = found_NC.argmax(-1), ["a", "b", "c", "d"]
    said, true = said_N.tolist(), targets_N.tolist()
    found = values(measures.per_class_f1(said_N, targets_N, names))
    for number, name in enumerate(names):
        assert found[f"f1/{name}"] == pytest.approx(f1_by_hand(said, true, number))
    matrix = measures.confusion(said_N, targets_N, names)
    for row, column in product(range(4), repeat=2):
        count = sum(pair == (row, column) for pair in zip(true, said, strict=True))
        assert matrix[f"confusion/{names[row]}/{names[column]}"].value == count
    assert sum(metric.value for metric in matrix.values()) == ROWS


def test_of_two_classes_the_area_is_that_of_the_second() -> None:
    scores_N = torch.tensor([0.1, 0.4, 0.35, 0.8])
    found_NC, targets_N = torch.stack([1 - scores_N, scores_N], -1), torch.tensor([0, 0, 1, 1])
    found = values(measures.single_label_measures(found_NC, targets_N, 15), 4)
    assert found["auroc"] == pytest.approx(0.75)


def test_classes_that_do_not_occur_have_no_area_and_no_f1() -> None:
    found_NC = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
    targets_N = torch.tensor([0, 1, 0])
    found = values(measures.single_label_measures(found_NC, targets_N, 15), 3)
    assert found["auroc"] == 1.0
    assert found["macro_f1"] == 1.0


def test_a_single_class_has_no_area_and_the_metric_is_left_out() -> None:
    found_NC, targets_N = torch.tensor([[0.7, 0.3], [0.6, 0.4]]), torch.tensor([0, 0])
    chosen = measures.single_label_measures(found_NC, targets_N, 15)
    metrics = measures.with_intervals(chosen, 2, 10)
    assert "auroc" not in metrics
    assert metrics["accuracy"].value == 1.0


def test_several_labels_by_hand() -> None:
    torch.manual_seed(1)
    found_NC, targets_NC = torch.rand(ROWS, 3), torch.randint(2, (ROWS, 3))
    said = (found_NC > 0.5).int()
    found = values(measures.multi_label_measures(found_NC, targets_NC, 15))
    exact = sum(bool((said[row] == targets_NC[row]).all()) for row in range(ROWS))
    assert found["accuracy"] == pytest.approx(exact / ROWS)
    columns = [(said[:, c].tolist(), targets_NC[:, c].tolist()) for c in range(3)]
    f1 = [f1_by_hand(*column, 1) for column in columns]
    assert found["macro_f1"] == pytest.approx(sum(f1) / 3, rel=1e-6)
    every = said.flatten().tolist(), targets_NC.flatten().tolist()
    assert found["micro_f1"] == pytest.approx(f1_by_hand(*every, 1), rel=1e-6)
    areas = [
        area_by_hand(found_NC[:, c].tolist(), targets_NC[:, c].bool().tolist()) for c in range(3)
    ]
    assert found["auroc"] == pytest.approx(sum(areas) / 3)


def test_ordered_labels_by_hand() -> None:
    torch.manual_seed(2)
    found_NC, targets_N = torch.rand(ROWS, 4).softmax(-1), torch.randint(4, (ROWS,))
    said_N = torch.randint(4, (ROWS,))
    found = values(measures.ordinal_measures(found_NC, said_N, targets_N))
    said, true = said_N.tolist(), targets_N.tolist()
    errors = [abs(one - other) for one, other in zip(said, true, strict=True)]
    assert found["accuracy"] == pytest.approx(sum(error == 0 for error in errors) / ROWS)
    assert found["mae"] == pytest.approx(sum(errors) / ROWS)
    chance = sum(
        said.count(one) * true.count(other) * (one - other) ** 2 / ROWS
        for one, other in product(range(4), repeat=2)
    )
    kappa = 1 - sum(error**2 for error in errors) / chance  # Cohen 1968
    assert found["quadratic_kappa"] == pytest.approx(kappa, rel=1e-5)


def ranks_by_hand(numbers: list[float]) -> list[float]:
    return [
        sum(other < each for other in numbers) + (numbers.count(each) + 1) / 2 for each in numbers
    ]


def correlation_by_hand(left: list[float], right: list[float]) -> float:
    means = sum(left) / len(left), sum(right) / len(right)
    pairs = [(x - means[0], y - means[1]) for x, y in zip(left, right, strict=True)]
    top = sum(x * y for x, y in pairs)
    return top / math.sqrt(sum(x * x for x, _ in pairs) * sum(y * y for _, y in pairs))


def test_numbers_by_hand() -> None:
    torch.manual_seed(3)
    true_N = torch.randn(ROWS).mul(2).round()
    said_N = (true_N + torch.randn(ROWS)).mul(4).round().div(4)
    found = values(measures.regression_measures(said_N, true_N))
    said, true = said_N.tolist(), true_N.tolist()
    errors = [one - other for one, other in zip(said, true, strict=True)]
    assert found["rmse"] == pytest.approx(math.sqrt(sum(e * e for e in errors) / ROWS), rel=1e-5)
    assert found["mae"] == pytest.approx(sum(map(abs, errors)) / ROWS, rel=1e-5)
    assert found["pearson"] == pytest.approx(correlation_by_hand(said, true), rel=1e-4)
    ranked = correlation_by_hand(ranks_by_hand(said), ranks_by_hand(true))
    assert found["spearman"] == pytest.approx(ranked, rel=1e-4)


def test_what_does_not_vary_has_no_correlation() -> None:
    constant = measures.regression_measures(torch.ones(5), torch.arange(5.0))
    metrics = measures.with_intervals(constant, 5, 10)
    assert metrics.keys() == {"rmse", "mae"}


def test_an_interval_of_a_share_is_as_wide_as_its_standard_error_says() -> None:
    hits_N = np.array([1.0] * 300 + [0.0] * 100)
    measure = {"share": lambda drawn_N: float(hits_N[drawn_N].mean())}
    metric = measures.with_intervals(measure, 400, 2000)["share"]
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert metric.value == 0.75
    assert metric.low == pytest.approx(0.75 - half, abs=0.005)
    assert metric.high == pytest.approx(0.75 + half, abs=0.005)


def test_an_interval_holds_its_value_also_where_resamples_are_biased() -> None:
    torch.manual_seed(0)
    found_NC, targets_N = torch.rand(30, 3).softmax(-1), torch.randint(3, (30,))
    chosen = measures.single_label_measures(found_NC, targets_N, 15)
    for metric in measures.with_intervals(chosen, 30, 50).values():
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.value <= metric.high


def test_the_area_of_a_resample_is_that_of_its_rows(predicted: tuple[Tensor, Tensor]) -> None:
    found_NC, targets_N = predicted
    drawn_N = np.random.default_rng(0).integers(0, ROWS, ROWS)
    measure = measures.single_label_measures(found_NC, targets_N, 15)["auroc"]
    again = measures.single_label_measures(found_NC[drawn_N], targets_N[drawn_N], 15)["auroc"]
    assert measure(drawn_N) == pytest.approx(again(np.arange(ROWS)))


def test_the_numbers_are_those_of_scikit_learn(predicted: tuple[Tensor, Tensor]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    found_NC, targets_N = predicted
    scores, true = found_NC.double().numpy(), targets_N.numpy()
    scores = scores / scores.sum(1, keepdims=True)
    said = scores.argmax(1)
    found = values(measures.single_label_measures(found_NC, targets_N, 15))
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(true, said))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(true, said, average="macro"))
    area = sklearn.roc_auc_score(true, scores, multi_class="ovr")
    assert found["auroc"] == pytest.approx(area, abs=1e-6)
    ordered = values(measures.ordinal_measures(found_NC, torch.from_numpy(said), targets_N))
    kappa = sklearn.cohen_kappa_score(true, said, weights="quadratic")
    assert ordered["quadratic_kappa"] == pytest.approx(kappa, rel=1e-5)
    assert ordered["mae"] == pytest.approx(sklearn.mean_absolute_error(true, said))
