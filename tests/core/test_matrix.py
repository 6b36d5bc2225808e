"""Stage × suite: every checkpoint under the evaluators of every stage, measured once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.core.chain import finished, read, two_stages
from tests.core.conftest import Finished

from ontogeny.evaluator import Metric
from ontogeny.matrix import Cell, summary


def cells(matrix: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["checkpoint"], each["stage"]): each for each in matrix["cells"]}


def test_every_earlier_suite_is_measured_again_and_the_next_one_before_its_stage(
    chain_run: Finished,
) -> None:
    matrix = read(chain_run.folder / "matrix.json")
    assert matrix["checkpoints"] == ["first", "second"]
    assert matrix["parents"] == {"first": None, "second": "first"}
    both = {(row, column) for row in ("first", "second") for column in ("first", "second")}
    assert set(cells(matrix)) == both


def test_what_is_measured_again_equals_what_the_stage_has_measured_itself(
    chain_run: Finished,
) -> None:
    # The stage `second` measures the model that it is given, and its own, on each source: the
    # same rows as those of `first`.
    matrix = cells(read(chain_run.folder / "matrix.json"))
    own = read(chain_run.folder / "metrics.json")["second"]["forgetting"]
    before = matrix["first", "second"]["metrics"]["bits_per_byte/domain"]
    after = matrix["second", "first"]["metrics"]["bits_per_byte"]
    assert before["value"] == own["bits_per_byte_before/domain"]["value"]
    assert after["value"] == own["bits_per_byte_after/general"]["value"]
    assert before["less_is_better"] is True


def test_a_cell_that_is_known_is_not_measured_again(
    cli: Callable[..., Any], home: Path, text_file: Path
) -> None:
    _, first = finished(cli, two_stages(text_file))
    folder, again = finished(cli, two_stages(text_file))
    assert first.count("matrix: perplexity of ") == 2
    assert "matrix:" not in again
    assert len(read(folder / "matrix.json")["cells"]) == 4
    # Another way to train leads to another checkpoint, under which all is measured anew, but not
    # the checkpoint before it: how a stage trains is no part of what it is measured by.
    _, third = finished(cli, two_stages(text_file, "stages.second.optimizer.lr=0.01"))
    assert third.count("matrix: perplexity of first, on the checkpoint of second") == 1
    assert "on the checkpoint of first" not in third


def test_the_matrix_can_be_switched_off(
    cli: Callable[..., Any], home: Path, text_file: Path
) -> None:
    folder, out = finished(cli, two_stages(text_file, "report.matrix=false"))
    assert "matrix:" not in out
    assert not (folder / "matrix.json").exists()


def test_a_suite_that_cannot_measure_a_checkpoint_says_why(
    cli: Callable[..., Any], home: Path, text_file: Path, tmp_path: Path
) -> None:
    rows = "".join(f'{{"text": "the river {n}", "label": "{"ab"[n % 2]}"}}\n' for n in range(20))
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text(rows)
    third = [
        "+stage@stages.third=finetuning",
        *(f"stages.third.data.{item}" for item in (f"path={labelled}", "max_length=32")),
        *(f"stages.third.{item}" for item in ("trainer.max_steps=1", "preflight=off")),
        "stages.third.data.validation.share=0.5",
    ]
    folder, _ = finished(cli, [*two_stages(text_file), *third])
    matrix = cells(read(folder / "matrix.json"))
    # The body still predicts words, since input and output embeddings are one; but what was not
    # fine-tuned has no classes.
    assert matrix["third", "first"]["metrics"]
    assert "it has no head sequence_classification" in matrix["second", "third"]["reason"]
    page = (folder / "report.html").read_text()
    assert "is not measured: it has no head sequence_classification" in page
    _, again = finished(cli, [*two_stages(text_file), *third])
    assert "matrix:" not in again  # the reason is kept, too


def cell(checkpoint: str, stage: str, value: float, name: str = "accuracy") -> Cell:
    return Cell(checkpoint, stage, "e", {name: Metric(value, "1")})


def test_gain_transfer_and_forgetting_are_those_of_the_formulas() -> None:
    # R of three stages in a line; more is better.
    found = [
        *(cell("a", "a", 0.8), cell("b", "a", 0.9), cell("c", "a", 0.6)),
        *(cell("a", "b", 0.1), cell("b", "b", 0.7), cell("c", "b", 0.75)),
        *(cell("b", "c", 0.3), cell("c", "c", 0.5)),
    ]
    a, b, c = summary(found, ["a", "b", "c"])
    assert a["backward_transfer"] == pytest.approx(0.6 - 0.8)
    assert a["forgetting"] == pytest.approx(0.9 - 0.6)  # from its best, not from its own
    assert "gain" not in a
    assert b["gain"] == pytest.approx(0.7 - 0.1)
    assert b["backward_transfer"] == pytest.approx(0.05)
    assert b["forgetting"] == pytest.approx(-0.05)
    assert c["gain"] == pytest.approx(0.2)
    assert not {"backward_transfer", "forgetting"} & set(c)


def test_of_a_loss_a_fall_is_a_gain() -> None:
    found = [
        *(cell("a", "a", 2.0, "bits_per_byte"), cell("b", "a", 2.5, "bits_per_byte")),
        *(cell("a", "b", 4.0, "bits_per_byte"), cell("b", "b", 3.0, "bits_per_byte")),
    ]
    a, b = summary(found, ["a", "b"])
    assert (a["backward_transfer"], a["forgetting"]) == (-0.5, 0.5)
    assert b["gain"] == 1.0


def test_a_change_within_the_interval_of_the_stages_own_value_is_not_clear() -> None:
    own = Cell("a", "a", "e", {"accuracy": Metric(0.5, "1", 0.4, 0.6)})
    for value, clear in ((0.45, False), (0.35, True)):
        (row,) = summary([own, cell("b", "a", value)], ["a", "b"])
        assert row["forgetting_is_clear"] is clear


def test_a_side_branch_does_not_count_as_forgetting() -> None:
    found = [cell("a", "a", 0.5), cell("branch", "a", 0.9), cell("b", "a", 0.5)]
    (a,) = summary(found, ["a", "b"])
    assert a["forgetting"] == 0.0
