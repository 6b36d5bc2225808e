"""Lifecycles and their sweeps in real processes: no stage is ever trained twice."""

from __future__ import annotations

import csv
import json
import signal
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.reliability.conftest import Ended, Place

STAGES = ("pretrain", "instruct")
STEPS = {"pretrain": 30, "instruct": 20}
MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
GRID = ("-m", "stages.pretrain.seed=1,2", "stages.instruct.optimizer.lr=1e-4,1e-3,1e-2")


def overrides(place: Place) -> list[str]:
    rows = place.folder / "rows.jsonl"
    if not rows.exists():
        answers = ({"prompt": f"what is {n}?", "completion": f"stone {n}"} for n in range(80))
        rows.write_text("".join(json.dumps(row) + "\n" for row in answers))
    each = ("data.max_length=64", "data.batch_size=2", "stage.sample_tokens=0", "preflight=off")
    return [
        "lifecycle=standard",
        "stages.pretrain.tokenizer.vocab_size=300",
        f"stages.pretrain.data.path={place.text}",
        f"stages.instruct.data.path={rows}",
        *(f"stages.pretrain.model.config.{key}={value}" for key, value in MODEL.items()),
        *(f"stages.{stage}.{key}" for stage in STAGES for key in each),
        *(f"stages.{stage}.trainer.max_steps={steps}" for stage, steps in STEPS.items()),
        *(f"stages.{stage}.trainer.save_every_steps=5" for stage in STAGES),
    ]


def steps_trained(place: Place) -> Counter[tuple[str, int]]:
    """Count how often each optimiser step stands in the logs of each kind of stage."""
    counted: Counter[tuple[str, int]] = Counter()
    for stage in place.store.glob("stages/*"):
        lineage = json.loads((stage / "checkpoint" / "lineage.json").read_text())
        with (stage / "logs" / "metrics.csv").open() as lines:
            steps = [int(row["step"]) for row in csv.DictReader(lines) if row["train/loss"]]
        counted.update((lineage["stage"], step) for step in steps)
    return counted


def expected(pretrained: int, instructed: int) -> Counter[tuple[str, int]]:
    often = {"pretrain": pretrained, "instruct": instructed}
    found = (Counter({(s, n): often[s] for n in range(STEPS[s])}) for s in STAGES)
    return Counter(dict(chain.from_iterable(each.items() for each in found)))


def said_to_train(*ended: Ended) -> int:
    """Count the lines that a stage prints once, when it begins to train."""
    return sum(each.out.count(" rows of up to 64 tokens") for each in ended)


def test_two_processes_that_start_the_same_lifecycle_do_the_work_once(
    new_place: Callable[[], Place],
) -> None:
    place = new_place()
    both = [place.start_as_is(*overrides(place)) for _ in range(2)]
    ended = [process.end() for process in both]
    assert [each.code for each in ended] == [0, 0], ended
    assert said_to_train(*ended) == 2
    assert sum(each.out.count("finished before, nothing to train") for each in ended) == 2
    assert steps_trained(place) == expected(1, 1)


@pytest.mark.parametrize(
    "launcher",
    [
        (),
        pytest.param(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), marks=pytest.mark.slow),
    ],
    ids=["basic", "joblib"],
)
def test_a_sweep_over_an_early_and_a_late_stage_trains_the_early_one_twice(
    launcher: tuple[str, ...], new_place: Callable[[], Place]
) -> None:
    place = new_place()
    ended = place.start_as_is(*GRID, *overrides(place), *launcher).end()
    assert ended.code == 0, ended
    assert steps_trained(place) == expected(2, 6)
    sweep = next(iter(place.folder.glob("multirun/*/*")))
    assert (sweep / "best" / "stages" / "instruct" / "checkpoint" / "config.json").exists()
    assert (sweep / "sweep.html").exists()


@pytest.mark.slow
def test_jobs_that_submitit_starts_share_what_they_need(new_place: Callable[[], Place]) -> None:
    place = new_place()
    rates = ("-m", "stages.instruct.optimizer.lr=1e-3,1e-2", "hydra/launcher=submitit_local")
    ended = place.start_as_is(*rates, *overrides(place)).end()
    assert ended.code == 0, ended
    assert steps_trained(place) == expected(1, 2)
    assert "best: job" in ended.out


@pytest.mark.slow
def test_a_sweep_with_a_killed_job_trains_nothing_twice_when_it_is_started_again(
    new_place: Callable[[], Place],
) -> None:
    place = new_place()
    command = [*GRID, *overrides(place), "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    first = place.start_as_is(*command)
    first.wait_for(place.store, "work/*/training_states/step-00000010")
    workers = psutil.Process(first.popen.pid).children(recursive=True)
    holding = [worker for worker in workers if holds_a_lease(place, worker.pid)]
    holding[0].send_signal(signal.SIGKILL)
    broken = first.end()
    assert broken.code != 0
    wait_for_the_end(workers)
    again = place.start_as_is(*command).end()
    assert again.code == 0, again
    assert steps_trained(place) == expected(2, 6)
    assert "going on from step" in again.out


def holds_a_lease(place: Place, pid: int) -> bool:
    leases = place.store.glob("locks/stages-*.lease")
    return any(json.loads(lease.read_text())["pid"] == pid for lease in leases)


def wait_for_the_end(processes: list[psutil.Process]) -> None:
    psutil.wait_procs(processes, timeout=60)


@pytest.mark.slow
def test_optuna_tries_the_same_values_again_and_finds_them_in_the_store(
    new_place: Callable[[], Place],
) -> None:
    place = new_place()
    search = (
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "stages.instruct.optimizer.lr=tag(log,interval(1e-4,1e-2))",
        "sweep.metric=instruct/completion_perplexity/bits_per_byte",
    )
    first = place.start_as_is(*search, *overrides(place)).end()
    assert first.code == 0, first
    assert steps_trained(place) == expected(1, 3)
    sweep = next(iter(place.folder.glob("multirun/*/*")))
    facts = json.loads((sweep / "sweep.json").read_text())
    values = [next(iter(job["values"].values())) for job in facts["jobs"]]
    assert facts["best"] == str(values.index(min(values)))
    assert f"best_value: {min(values)}" in (sweep / "optimization_results.yaml").read_text()
    again = place.start_as_is(*search, *overrides(place)).end()
    assert said_to_train(again) == 0
    assert steps_trained(place) == expected(1, 3)


@pytest.mark.slow
def test_a_search_goes_on_beyond_a_trial_that_fails_and_does_not_hide_it(
    new_place: Callable[[], Place],
) -> None:
    place = new_place()
    settings = [item for item in overrides(place) if "stages.instruct.data.path" not in item]
    paths = f"stages.instruct.data.path={place.folder / 'gone.jsonl'},{place.folder}/rows.jsonl"
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1")
    ended = place.start_as_is("-m", *settings, *search, paths).end()
    assert ended.code == 1
    assert "of 4 jobs failed" in ended.err
    assert "finished" in ended.out[ended.out.rindex("sweep ") :]


@pytest.mark.slow
def test_a_job_that_is_behind_ends_early_and_can_be_gone_on_with(
    new_place: Callable[[], Place],
) -> None:
    place = new_place()
    settings = [*overrides(place), "stages.instruct.trainer.evaluate_every=5"]
    prune = ("sweep.prune=completion_perplexity/bits_per_byte", "sweep.prune_after=2")
    rates = "stages.instruct.optimizer.lr=1e-2,2e-2,1e-6"
    ended = place.start_as_is("-m", *settings, *prune, rates).end()
    assert ended.code == 0, ended
    sweep = next(iter(place.folder.glob("multirun/*/*")))
    states = [json.loads((sweep / str(n) / "status.json").read_text())["state"] for n in range(3)]
    assert states == ["finished", "finished", "pruned"]
    whole = place.start_as_is(*settings, rates.replace("1e-2,2e-2,", "")).end()
    assert whole.code == 0
    assert "instruct: going on from step 5" in whole.out
