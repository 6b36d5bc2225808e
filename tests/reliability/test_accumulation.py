"""How a step is cut into batches changes nothing: its loss is divided once, by all its tokens."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ontogeny.lifecycle import RunResult

# Rows of 3 to 40 words, eight to a step.
UNEQUAL = (
    *("data.packing=false", "data.text_unit=paragraph", "data.max_length=256"),
    *("precision=32-true", "trainer.max_epochs=0.5"),
)
ONE = ("data.batch_size=8", "trainer.accumulate_grad_batches=1")
FOUR = ("data.batch_size=2", "trainer.accumulate_grad_batches=4")


@pytest.fixture(scope="module")
def one_and_four(train: Callable[..., RunResult]) -> tuple[Path, Path]:
    """Return the stage folders of one batch of eight rows, and of four batches of two."""
    results = train("one", *UNEQUAL, *ONE), train("four", *UNEQUAL, *FOUR)
    one, four = (result.folder / "stages" / "pretraining" for result in results)
    return one, four


def column(stage: Path, name: str) -> list[float]:
    with (stage / "logs" / "metrics.csv").open() as lines:
        return [float(row[name]) for row in csv.DictReader(lines)]


@pytest.mark.parametrize("name", ["train/loss", "train/gradient_norm"])
def test_every_step_has_the_same_numbers(name: str, one_and_four: tuple[Path, Path]) -> None:
    one, four = one_and_four
    assert column(one, name) == pytest.approx(column(four, name), rel=1e-5)


def test_the_weights_are_the_same(one_and_four: tuple[Path, Path]) -> None:
    one, four = (load_file(stage / "checkpoint" / "model.safetensors") for stage in one_and_four)
    assert one.keys() == four.keys()
    for name, weights in one.items():
        torch.testing.assert_close(four[name], weights, rtol=1e-4, atol=1e-6)


def test_half_an_epoch_has_half_the_steps_of_one(
    one_and_four: tuple[Path, Path], text: Path
) -> None:
    one, four = one_and_four
    paragraphs = text.read_text().count("\n\n") + 1
    steps = len(column(one, "train/loss"))
    assert len(column(four, "train/loss")) == steps
    assert steps == pytest.approx(0.5 * math.ceil(0.95 * paragraphs / 8), abs=1)  # 5 % held out
