"""Numbers of merit of predictions, each with its 95 % bootstrap interval over rows."""
# N rows, C classes, R resamples, G groups of rows with the same score

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torchmetrics.functional import (
    mean_absolute_error,
    mean_squared_error,
    pearson_corrcoef,
    spearman_corrcoef,
)
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
    multiclass_cohen_kappa,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multilabel_f1_score,
)

from ontogeny.evaluator import Metric, Metrics
from ontogeny.intervals import LEVEL, resampled_rows

if TYPE_CHECKING:
    from torch import Tensor

# What is measured of some of the rows, given their indices [N]; NaN where there is no such number.
Measure = Callable[[np.ndarray], float]


def with_intervals(measures: Mapping[str, Measure], rows: int, resamples: int) -> Metrics:
    """Return what is measured of all rows, and its interval over resampled rows (Efron, 1979).

    An interval is that of percentiles, widened where the value itself lies outside of it. A number
    that all rows together do not have, such as the AUROC of a class without rows, is left out.
    """
    every_N = np.arange(rows)
    values = {name: measure(every_N) for name, measure in measures.items()}
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    found: dict[str, list[float]] = {name: [] for name in values}
    for drawn_N in resampled_rows(rows, resamples):
        for name, list_R in found.items():
            list_R.append(measures[name](drawn_N))
    return {name: _metric(value, np.array(found[name])) for name, value in values.items()}


def _metric(value: float, found_R: np.ndarray) -> Metric:
    finite_R = np.append(found_R[np.isfinite(found_R)], value)
    low, high = np.quantile(finite_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Metric(value, "1", min(value, float(low)), max(value, float(high)))


def single_label_measures(
    probabilities_NC: Tensor, targets_N: Tensor, bins: int
) -> dict[str, Measure]:
    """Return accuracy, F1 (micro equals the accuracy), AUROC and expected calibration error."""
    classes = probabilities_NC.shape[1]
    predicted_N = probabilities_NC.argmax(-1)
    hits_N = (predicted_N == targets_N).numpy()

    def f1(drawn_N: np.ndarray) -> float:
        pair = predicted_N[drawn_N], targets_N[drawn_N]
        return float(multiclass_f1_score(*pair, classes, average="macro", validate_args=False))

    def calibration_error(drawn_N: np.ndarray) -> float:  # Guo et al. 2017, eq. 3
        pair = probabilities_NC[drawn_N], targets_N[drawn_N]
        return float(multiclass_calibration_error(*pair, classes, n_bins=bins, validate_args=False))

    def accuracy(drawn_N: np.ndarray) -> float:
        return float(hits_N[drawn_N].mean())

    positive_NC = torch.nn.functional.one_hot(targets_N, classes).numpy().astype(bool)
    return {
        "accuracy": accuracy,
        "macro_f1": f1,
        "micro_f1": accuracy,
        "auroc": auroc(probabilities_NC.numpy(), positive_NC),
        "calibration_error": calibration_error,
    }


def per_class_f1(
    predicted_N: Tensor, targets_N: Tensor, names: Sequence[str]
) -> dict[str, Measure]:
    """Return the F1 of each class against all others."""

    def measure(number: int) -> Measure:
        is_said_N = (predicted_N == number).numpy()
        is_true_N = (targets_N == number).numpy()
        return f1_of(is_said_N, is_true_N)

    return {f"f1/{name}": measure(number) for number, name in enumerate(names)}


def f1_of(is_said_N: np.ndarray, is_true_N: np.ndarray) -> Measure:
    """Return the F1 of a yes or no; 0 where nothing is said and nothing is true."""
    both_N = (is_said_N & is_true_N).astype(float)
    sum_N = is_said_N.astype(float) + is_true_N

    def measure(drawn_N: np.ndarray) -> float:
        total = float(sum_N[drawn_N].sum())
        return 2 * float(both_N[drawn_N].sum()) / total if total else 0.0

    return measure


def confusion(predicted_N: Tensor, targets_N: Tensor, names: Sequence[str]) -> Metrics:
    """Return how many rows of each class were taken for each: `confusion/<true>/<predicted>`."""
    counts_CC = multiclass_confusion_matrix(predicted_N, targets_N, len(names), validate_args=False)
    return {
        f"confusion/{true}/{predicted}": Metric(float(counts_CC[row, column]), "rows")
        for row, true in enumerate(names)
        for column, predicted in enumerate(names)
    }


def ordinal_measures(
    probabilities_NC: Tensor, predicted_N: Tensor, targets_N: Tensor
) -> dict[str, Measure]:
    """Return accuracy, mean absolute error in classes, and kappa with quadratic weights."""
    classes = probabilities_NC.shape[1]
    hits_N = (predicted_N == targets_N).numpy()
    errors_N = (predicted_N - targets_N).abs().double().numpy()

    def kappa(drawn_N: np.ndarray) -> float:  # Cohen 1968
        pair = predicted_N[drawn_N], targets_N[drawn_N]
        found = multiclass_cohen_kappa(*pair, classes, weights="quadratic", validate_args=False)
        return float(found)

    return {
        "accuracy": lambda drawn_N: float(hits_N[drawn_N].mean()),
        "mae": lambda drawn_N: float(errors_N[drawn_N].mean()),
        "quadratic_kappa": kappa,
    }


def multi_label_measures(
    probabilities_NC: Tensor, targets_NC: Tensor, bins: int
) -> dict[str, Measure]:
    """Return F1 at 0.5, the share of rows with all classes right, AUROC and calibration error."""
    classes = probabilities_NC.shape[1]
    exact_N = ((probabilities_NC > 0.5) == targets_NC.bool()).all(-1).numpy()

    def f1(average: Literal["macro", "micro"]) -> Measure:
        def measure(drawn_N: np.ndarray) -> float:
            pair = probabilities_NC[drawn_N], targets_NC[drawn_N]
            found = multilabel_f1_score(*pair, classes, average=average, validate_args=False)
            return float(found)

        return measure

    def calibration_error(drawn_N: np.ndarray) -> float:
        pair = probabilities_NC[drawn_N].flatten(), targets_NC[drawn_N].flatten()
        return float(binary_calibration_error(*pair, n_bins=bins, validate_args=False))

    return {
        "accuracy": lambda drawn_N: float(exact_N[drawn_N].mean()),
        "macro_f1": f1("macro"),
        "micro_f1": f1("micro"),
        "auroc": auroc(probabilities_NC.numpy(), targets_NC.numpy().astype(bool)),
        "calibration_error": calibration_error,
    }


def regression_measures(predicted_N: Tensor, targets_N: Tensor) -> dict[str, Measure]:
    """Return root mean squared and mean absolute error, and the correlations."""

    def measure(function: Callable[[Tensor, Tensor], Tensor]) -> Measure:
        return lambda drawn_N: float(function(predicted_N[drawn_N], targets_N[drawn_N]))

    def correlation(function: Callable[[Tensor, Tensor], Tensor]) -> Measure:
        """Return NaN where a side does not vary: there is no correlation then."""

        def found(drawn_N: np.ndarray) -> float:
            pair = predicted_N[drawn_N], targets_N[drawn_N]
            if any(bool((side == side[0]).all()) for side in pair):
                return math.nan
            return float(function(*pair))

        return found

    return {
        "rmse": lambda drawn_N: math.sqrt(measure(mean_squared_error)(drawn_N)),
        "mae": measure(mean_absolute_error),
        "pearson": correlation(pearson_corrcoef),
        "spearman": correlation(spearman_corrcoef),
    }


def auroc(scores_NC: np.ndarray, positive_NC: np.ndarray) -> Measure:
    """Return the area under the ROC curve: of two classes, or the mean of one against the rest.

    It is the probability that a row of the class has the higher score, ties counting half (Hanley
    & McNeil, 1982). Classes without rows, or with all of them, are left out. Sorted once for all
    resamples: torchmetrics sorts each anew and takes 14 ms for 2,000 rows of 15 classes.
    """
    classes = range(1, 2) if positive_NC.shape[1] == 2 else range(positive_NC.shape[1])
    areas = [_Area(scores_NC[:, number], positive_NC[:, number]) for number in classes]

    def measure(drawn_N: np.ndarray) -> float:
        weights_N = np.bincount(drawn_N, minlength=len(scores_NC)).astype(float)
        found = [area.of(weights_N) for area in areas]
        finite = [value for value in found if math.isfinite(value)]
        return float(np.mean(finite)) if finite else math.nan

    return measure


class _Area:
    """The area under one curve, for rows that count more or less often."""

    def __init__(self, scores_N: np.ndarray, positive_N: np.ndarray) -> None:
        self.positive_N = positive_N
        _, self.group_N = np.unique(scores_N, return_inverse=True)  # in rising order

    def of(self, weights_N: np.ndarray) -> float:
        groups = int(self.group_N.max()) + 1
        positive_G = np.bincount(self.group_N, weights_N * self.positive_N, groups)
        negative_G = np.bincount(self.group_N, weights_N * ~self.positive_N, groups)
        pairs = positive_G.sum() * negative_G.sum()
        below_G = negative_G.cumsum() - negative_G / 2
        return float((positive_G * below_G).sum() / pairs) if pairs else math.nan
