"""Every job of a sweep is run, whatever becomes of the others."""

from __future__ import annotations

import json
import signal
from itertools import product
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor
    from pathlib import Path

    from tests.reliability.conftest import Ended, Place

SHORT = ("trainer.max_steps=3", "data.max_length=64", "stage.sample_tokens=0", "preflight=off")
MODELS = ("llama_tiny", "gpt2_tiny")
SEEDS = ("1", "2")
GRID = ("-m", f"model={','.join(MODELS)}", f"seed={','.join(SEEDS)}", "tokenizer.vocab_size=300")


LAUNCHERS = {
    "basic": ("hydra/launcher=basic",),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
}
Sweeps = dict[str, "Future[tuple[Place, Ended]]"]


def sweep_folder(place: Place) -> Path:
    return next(iter(place.folder.glob("multirun/*/*")))


@pytest.fixture(scope="module")
def grids(new_place: Callable[[], Place], both: ThreadPoolExecutor) -> Sweeps:
    """Run two models with two seeds each."""

    def sweep(launcher: Sequence[str]) -> tuple[Place, Ended]:
        place = new_place()
        return place, place.start_as_is(*GRID, f"data.path={place.text}", *launcher, *SHORT).end()

    return {name: both.submit(sweep, launcher) for name, launcher in LAUNCHERS.items()}


@pytest.fixture(scope="module", params=LAUNCHERS)
def grid(request: pytest.FixtureRequest, grids: Sweeps) -> tuple[Place, Ended]:
    return grids[request.param].result()


@pytest.fixture(scope="module", params=["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def partly(
    request: pytest.FixtureRequest,
    grids: Sweeps,
    new_place: Callable[[], Place],
    misbehaving: dict[str, str],
) -> tuple[Place, Ended]:
    """Let one job find no data, two leave the process, and one do well, last of all."""
    del grids  # only asked for so that they go on beside this one
    place, launcher = new_place(), LAUNCHERS[request.param]
    paths = f"data.path={place.folder / 'missing.txt'},{place.text}"
    bad = ("objective=misbehaving", "objective.exit_at=1,null", "tokenizer.vocab_size=300")
    return place, place.start_as_is("-m", paths, *bad, *launcher, *SHORT, **misbehaving).end()


def test_every_job_of_a_grid_has_its_result(grid: tuple[Place, Ended]) -> None:
    place, ended = grid
    assert ended.code == 0, ended
    for number, (model, seed) in enumerate(product(MODELS, SEEDS)):
        job = sweep_folder(place) / str(number)
        lineage = json.loads((job / "stages/pretraining/checkpoint/lineage.json").read_text())
        assert lineage["config"]["model"]["config"]["model_type"] == model.removesuffix("_tiny")
        assert lineage["config"]["seed"] == int(seed)
        assert "bits_per_byte" in (job / "metrics.json").read_text()


def jobs_of(ended: Ended) -> list[str]:
    """Return the lines of the table that stand for jobs: the best one and the page come after."""
    lines = ended.out[ended.out.rindex("sweep ") :].splitlines()[1:]
    return [line for line in lines if line.split()[:1] and line.split()[0].isdigit()]


def test_the_table_at_the_end_names_every_job(grid: tuple[Place, Ended]) -> None:
    _, ended = grid
    table = jobs_of(ended)
    assert [line.split()[:2] for line in table] == [
        [str(number), "finished"] for number in range(4)
    ]
    assert ["seed=2" in line for line in table] == [False, True, False, True]


def test_jobs_with_the_same_data_share_the_tokenised_text(grid: tuple[Place, Ended]) -> None:
    place, _ = grid
    assert len(list(place.store.glob("examples/*"))) == 1


def test_a_job_that_fails_leaves_the_others_whole(partly: tuple[Place, Ended]) -> None:
    place, _ = partly
    assert (sweep_folder(place) / "3/stages/pretraining/checkpoint/model.safetensors").exists()
    states = [
        json.loads((sweep_folder(place) / str(job) / "status.json").read_text())["state"]
        for job in range(4)
    ]
    assert states == ["failed", "failed", "failed", "finished"]


def test_the_exit_code_of_a_sweep_with_a_failure_is_not_zero(partly: tuple[Place, Ended]) -> None:
    assert partly[1].code == 2
    assert "missing.txt" in partly[1].err


def test_the_table_at_the_end_names_the_failures(partly: tuple[Place, Ended]) -> None:
    table = jobs_of(partly[1])
    assert ["failed" in line for line in table] == [True, True, True, False]
    assert "missing.txt" in table[0]
    assert "exit" in table[2]


@pytest.fixture(scope="module")
def stopped(new_place: Callable[[], Place]) -> tuple[Place, Ended]:
    """Stop a sweep in its first job."""
    place = new_place()
    process = place.start("-m", "seed=1,2", "trainer.max_steps=4000", "trainer.save_every_steps=1")
    process.wait_for(place.store, "work/*/training_states/step-00000003")
    process.send(signal.SIGTERM)
    return place, process.end()


def test_a_signal_ends_the_sweep_and_not_only_the_job(stopped: tuple[Place, Ended]) -> None:
    place, ended = stopped
    line = "ontogeny: stopped by SIGTERM; the same command goes on from here\n"
    assert (ended.code, ended.err) == (143, line)
    assert not (sweep_folder(place) / "1").exists()


def test_the_table_of_a_stopped_sweep_names_the_job(stopped: tuple[Place, Ended]) -> None:
    table = jobs_of(stopped[1])
    assert [line.split()[:2] for line in table] == [["0", "interrupted"]]
