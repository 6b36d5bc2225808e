"""What labels make of a task: names, ids, weights, and words for those that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ontogeny import ConfigError, DataError
from ontogeny_plugins.classification import Classification
from ontogeny_plugins.classification.labels import class_weights, find_labels, renumbered


def options(**changes: Any) -> Classification:
    return Classification(**changes)


def test_names_are_sorted_and_counted() -> None:
    labels = find_labels(["dog", "cat", "dog"], options())
    assert labels.task == "single_label"
    assert labels.names == ["cat", "dog"]
    assert labels.counts == [1, 2]
    assert labels.target("dog") == 1


def test_whole_numbers_are_names_in_the_order_of_numbers() -> None:
    labels = find_labels([10, 9, 2, 10], options())
    assert labels.names == ["2", "9", "10"]
    assert [int(labels.target(number)) for number in (2, 9, 10)] == [0, 1, 2]


@pytest.mark.parametrize(("numbers", "said"), [([0, 1, 2], False), ([1, 2], True), ([0, 2], True)])
def test_numbers_that_are_no_ids_are_said_to_be_names(numbers: list[int], said: bool) -> None:
    note = renumbered(find_labels(numbers, options()))
    assert (note is not None) == said
    if note:
        assert "are names of classes, whose ids are 0 to 1" in note


def test_true_and_false_are_names() -> None:
    labels = find_labels([True, False], options())
    assert labels.names == ["false", "true"]
    assert int(labels.target(True)) == 1


def test_lists_are_several_labels_and_none_is_allowed() -> None:
    labels = find_labels([["b", "a"], [], ["b"]], options())
    assert labels.task == "multi_label"
    assert labels.counts == [1, 2]
    assert labels.target(["b", "a", "b"]).tolist() == [0, 1]
    assert labels.target([]).tolist() == []


def test_a_list_among_single_labels_is_the_one_that_does_not_fit() -> None:
    labels = find_labels(["a", "b", ["a"]], options())
    assert labels.task == "single_label"
    with pytest.raises(ValueError, match=r"label is \['a'\]; expected text or a whole number"):
        labels.target(["a"])


def test_lists_that_are_all_empty_are_told() -> None:
    with pytest.raises(DataError, match="all rows have an empty list of labels"):
        find_labels([[], []], options())


def test_labels_of_no_known_kind_are_left_to_their_rows() -> None:
    labels = find_labels([{"of": "a"}], options(balanced=True))
    assert class_weights(labels, options(balanced=True)) is None
    with pytest.raises(ValueError, match="expected text or a whole number"):
        labels.target({"of": "a"})


def test_numbers_with_decimals_are_to_be_predicted() -> None:
    labels = find_labels([1.5, 2, 3.0], options())
    assert labels.task == "regression"
    assert labels.target(2) == np.float32(2)
    assert labels.target("2.5") == np.float32(2.5)  # CSV knows no numbers


def test_what_numbers_are_can_be_said() -> None:
    labels = find_labels([1.0, 2.0, 2.0], options(task="single_label"))
    assert labels.names == ["1", "2"]
    assert find_labels(["1", "2"], options(task="regression")).task == "regression"


def test_ordered_labels_need_an_order() -> None:
    assert find_labels([3, 1, 2], options(task="ordinal")).names == ["1", "2", "3"]
    named = options(task="ordinal", labels=["low", "mid", "high"])
    assert find_labels(["high", "low"], named).names == ["low", "mid", "high"]
    with pytest.raises(ConfigError, match=r"say their order, as 'objective.labels=\[high,low\]'"):
        find_labels(["high", "low"], options(task="ordinal"))


def test_names_that_are_given_stand_for_the_numbers_in_the_rows() -> None:
    labels = find_labels([0, 1, 1], options(labels=["bad", "good"]))
    assert labels.counts == [1, 2]
    assert int(labels.target(1)) == 1
    assert int(labels.target("bad")) == 0


@pytest.mark.parametrize(
    ("seen", "label", "message"),
    [
        (["a", "b"], "c", "label is 'c', which is none of the classes: a, b"),
        (["a", "b"], 7, "label is '7', which is none of the classes: a, b"),
        (["a", "b"], ["a"], r"label is \['a'\]; expected text or a whole number"),
        (["a", "b"], " ", "label is ' '; expected text or a whole number"),
        ([["a"], ["b"]], "a", "label is 'a'; expected a list of labels, as in other rows"),
        ([["a"], ["b"]], ["c"], "label is 'c', which is none of the classes: a, b"),
        ([1.5, 2.5], "much", "label is 'much'; expected a number"),
        ([1.5, 2.5], float("nan"), "label is nan; expected a number"),
        ([1.5, 2.5], True, "label is True; expected a number"),
    ],
)
def test_a_label_that_does_not_fit_is_told(seen: list[Any], label: object, message: str) -> None:
    labels = find_labels(seen, options())
    with pytest.raises(ValueError, match=message):
        labels.target(label)


def test_a_long_list_of_classes_is_cut() -> None:
    labels = find_labels(range(100), options())
    with pytest.raises(ValueError, match=r"0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …$"):
        labels.target(100)


def test_one_class_is_no_classification() -> None:
    with pytest.raises(
        DataError, match="all rows have the label 'a' alone; a classification needs two"
    ):
        find_labels(["a", "a"], options())


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = find_labels(["a"] * 6 + ["b"] * 3 + ["c"], options())
    weights = class_weights(labels, options(balanced=True))
    assert weights == pytest.approx([10 / 18, 10 / 9, 10 / 3])


def test_weights_by_name_leave_a_row_at_one_on_average() -> None:
    labels = find_labels(["a"] * 6 + ["b"] * 4, options())
    weights = class_weights(labels, options(class_weights={"b": 3.0}))
    assert weights is not None
    assert weights[1] == pytest.approx(3 * weights[0])
    assert 6 * weights[0] + 4 * weights[1] == pytest.approx(10)


def test_balanced_weights_of_several_labels_are_rows_without_by_rows_with() -> None:
    labels = find_labels([["a"], ["a", "b"], ["a"], []], options())
    assert class_weights(labels, options(balanced=True)) == pytest.approx([1 / 3, 3.0])


def test_without_weights_there_are_none() -> None:
    assert class_weights(find_labels(["a", "b"], options()), options()) is None


def test_a_weight_for_no_class_is_refused() -> None:
    labels = find_labels(["a", "b"], options())
    with pytest.raises(ConfigError, match=r"objective.class_weights.c names no class; known: a, b"):
        class_weights(labels, options(class_weights={"c": 2.0}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "guess"}, "objective.task is 'guess'; expected one of auto"),
        ({"label_smoothing": 1.0}, r"objective.label_smoothing is 1.0; expected 0 <= ... < 1"),
        ({"labels": ["a", "a"]}, "objective.labels names a class twice"),
        ({"class_weights": {"a": 0}}, "objective.class_weights.a is 0; expected more than 0"),
    ],
)
def test_options_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(**changes)


@pytest.mark.parametrize("changes", [{"balanced": True}, {"labels": ["1"]}])
def test_options_for_classes_are_refused_where_labels_are_numbers(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="are for classes, but the labels are numbers"):
        find_labels([0.5, 1.5], options(**changes))


def test_smoothing_is_for_single_labels() -> None:
    with pytest.raises(ConfigError, match="this is a multi_label task: it is for single labels"):
        find_labels([["a"], ["b"]], options(label_smoothing=0.1))
