"""The checks let pass what keeps its promises."""

from collections.abc import Callable

import pytest

from ontogeny.testing import (
    ContractError,
    check_adapter,
    check_evaluator,
    check_objective,
    sample_rows,
)

Use = Callable[..., None]

QUICK = ["stage.sample_tokens=0"]


def test_an_objective_with_every_kind_of_option_passes(use: Use) -> None:
    use("working")
    check_objective("nexttoken", overrides=QUICK)


def test_an_objective_that_draws_from_torchs_generator_passes(use: Use) -> None:
    use("working")
    check_objective("sometokens", overrides=[*QUICK, "preflight=off"])


def test_an_objective_that_makes_its_own_data_passes(use: Use) -> None:
    use("working")
    check_objective("owntokens", overrides=QUICK)


def test_an_adapter_that_changes_no_weight_passes(use: Use) -> None:
    use("working")
    check_adapter("lastlayer")


def test_an_evaluator_with_a_required_option_passes_once_it_is_given(use: Use) -> None:
    use("working")
    with pytest.raises(ContractError, match=r"evaluator.wordcount.language is not set"):
        check_evaluator("wordcount")
    check_evaluator("wordcount", overrides=["evaluator.wordcount.language=en"])


def test_an_objective_is_tried_on_the_authors_own_rows(use: Use) -> None:
    use("working")
    with pytest.raises(ContractError, match=r"all examples have 2 tokens.*give rows of unequal"):
        check_objective("nexttoken", rows=[{"text": "abc"}, {"text": "def"}])


@pytest.mark.parametrize(
    "columns",
    [
        ("text",),
        ("prompt", "completion"),
        ("messages",),
        ("prompt", "chosen", "rejected"),
        ("text", "label"),
        ("tokens", "tags"),
    ],
)
def test_there_are_sample_rows_of_unequal_length(columns: tuple[str, ...]) -> None:
    rows = sample_rows([("unheard_of",), columns])
    assert all(set(row) == set(columns) for row in rows)
    assert len({len(str(row)) for row in rows}) > 3


def test_a_completion_is_labelled_good_or_bad() -> None:
    rows = sample_rows([("prompt", "completion", "label")])
    assert {row["label"] for row in rows} == {True, False}
    assert all(isinstance(row["label"], bool) for row in rows)


def test_columns_without_samples_need_rows_of_the_authors_own() -> None:
    with pytest.raises(ValueError, match="no sample rows with sky; give your own"):
        sample_rows([("sky",)])
