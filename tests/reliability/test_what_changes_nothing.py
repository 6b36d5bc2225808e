"""Workers, logs and evaluations change speed and output, never the result."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor

    from tests.reliability.conftest import Place

RUN = "trainer.max_steps=40"  # the run of `unbroken`
WAYS = {
    "data.workers=2": (RUN, "data.workers=2"),
    "log and evaluate": (
        *(RUN, "trainer.log_every=1", "trainer.evaluate_every=15", "trainer.progress=false"),
        *("trainer.compile=false", "trainer.gradient_clip_val=1.0", "data.workers=0"),
    ),
}


@pytest.fixture(scope="module")
def ran(new_place: Callable[[], Place], both: ThreadPoolExecutor) -> dict[str, Future[Place]]:
    def tell(overrides: tuple[str, ...]) -> Place:
        place = new_place()
        place.succeed(*overrides)
        return place

    return {name: both.submit(tell, overrides) for name, overrides in WAYS.items()}


@pytest.mark.parametrize("way", WAYS)
def test_the_weights_stay_the_same(
    way: str, ran: dict[str, Future[Place]], unbroken: Place
) -> None:
    assert ran[way].result().weights == unbroken.weights
    assert ran[way].result().losses == unbroken.losses


def test_evaluations_are_in_the_log_at_their_steps(ran: dict[str, Future[Place]]) -> None:
    place = ran["log and evaluate"].result()
    column = "evaluation/perplexity/bits_per_byte"
    with (place.stage / "logs" / "metrics.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row[column]]
    assert [int(row["step"]) for row in rows] == [0, 15, 30]
    assert float(rows[0][column]) > float(rows[2][column])
