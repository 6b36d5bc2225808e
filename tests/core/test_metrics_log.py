"""The log of a run, also of one that was cut off and went on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import Logger

from ontogeny.metrics_log import MetricsBuffer, MetricsFile


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


def train(log: MetricsFile, steps: range) -> None:
    for step in steps:
        log.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
    log.save()


def test_every_step_is_a_row(tmp_path: Path) -> None:
    train(MetricsFile(tmp_path, 0), range(3))
    assert [(row["step"], float(row["train/loss"])) for row in rows(tmp_path)] == [
        ("0", 1.0),
        ("1", 0.5),
        ("2", 1 / 3),
    ]


def test_a_new_metric_becomes_a_column_and_loses_no_row(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path, 0)
    train(log, range(2))
    log.log_metrics({"evaluation/perplexity/bits_per_byte": 2.5}, 2)
    log.save()
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2"]
    assert [row["evaluation/perplexity/bits_per_byte"] for row in rows(tmp_path)] == ["", "", "2.5"]


def test_what_is_not_saved_is_not_in_the_file(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path, 0)
    log.log_metrics({"train/loss": 1.0}, 0)
    assert rows(tmp_path) == []


def test_a_run_that_goes_on_drops_the_steps_it_computes_again(tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(MetricsFile(unbroken, 0), range(6))
    train(MetricsFile(broken, 0), range(4))
    train(MetricsFile(broken, 2), range(2, 6))
    assert (broken / "metrics.csv").read_text() == (unbroken / "metrics.csv").read_text()


def test_the_evaluation_before_the_next_step_is_kept(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path, 0)
    train(log, range(2))
    log.log_metrics({"evaluation/perplexity/perplexity": 9.0}, 2)
    train(log, range(2, 4))
    MetricsFile(tmp_path, 2)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2"]
    assert rows(tmp_path)[-1]["evaluation/perplexity/perplexity"] == "9.0"


def test_a_line_that_a_power_cut_tore_is_passed_over(tmp_path: Path) -> None:
    train(MetricsFile(tmp_path, 0), range(3))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("3,0.2")
    MetricsFile(tmp_path, 5)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2"]


class Notes(Logger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.saves = 0

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params: object = None) -> None: ...

    def save(self) -> None:
        self.saves += 1


def test_numbers_wait_until_enough_steps_are_there() -> None:
    log = Notes()
    buffer = MetricsBuffer([log], every=3)
    for step in range(4):
        buffer.add(step, {"train/loss": torch.tensor(0.5 * step), "train/lr": 0.1})
    assert [step for step, _ in log.rows] == [0, 1, 2]
    buffer.flush()
    assert log.rows[-1] == (3, {"train/loss": 1.5, "train/lr": 0.1})
    assert buffer.last == {"train/loss": 1.5, "train/lr": 0.1}


def test_an_evaluation_comes_after_the_steps_before_it() -> None:
    log = Notes()
    buffer = MetricsBuffer([log], every=10)
    buffer.add(0, {"train/loss": 1.0})
    buffer.write(1, {"evaluation/perplexity/perplexity": 3.0})
    assert [step for step, _ in log.rows] == [0, 1]


def test_every_log_gets_every_number() -> None:
    logs = [Notes(), Notes()]
    buffer = MetricsBuffer(logs, every=1)
    buffer.add(0, {"train/loss": 1.0})
    assert logs[0].rows == logs[1].rows == [(0, {"train/loss": 1.0})]
    assert [log.saves for log in logs] == [1, 1]


def test_numbers_survive_the_file_to_the_last_bit(tmp_path: Path) -> None:
    number = float(torch.rand((), generator=torch.Generator().manual_seed(1)))
    log = MetricsFile(tmp_path, 0)
    log.log_metrics({"train/loss": number}, 0)
    log.save()
    assert float(rows(tmp_path)[0]["train/loss"]) == pytest.approx(number, rel=0, abs=0)
