"""The table at the end of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

from ontogeny.sweep import sweep_table


def job(
    sweep: Path, number: int, status: dict[str, object] | None, overrides: str = "- seed=1\n"
) -> Path:
    folder = sweep / str(number)
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(overrides)
    if status is not None:
        (folder / "status.json").write_text(json.dumps(status))
    return folder


def metrics(folder: Path, **stages: dict[str, dict[str, float]]) -> None:
    content = {
        stage: {
            evaluator: {name: {"value": value} for name, value in values.items()}
            for evaluator, values in evaluators.items()
        }
        for stage, evaluators in stages.items()
    }
    (folder / "metrics.json").write_text(json.dumps(content))


def test_every_job_has_a_line_with_its_state_and_overrides(tmp_path: Path) -> None:
    job(tmp_path, 0, {"state": "finished"}, "- seed=1\n- optimizer.lr=0.1\n")
    job(tmp_path, 1, None)
    title, first, second = sweep_table(str(tmp_path)).splitlines()
    assert title == f"sweep {tmp_path}:"
    assert first.split() == ["0", "finished", "seed=1", "optimizer.lr=0.1"]
    assert second.split() == ["1", "not", "run", "seed=1"]


def test_a_job_that_failed_says_why(tmp_path: Path) -> None:
    job(tmp_path, 0, {"state": "failed", "reason": "missing.txt does not exist"})
    assert sweep_table(str(tmp_path)).endswith("seed=1  missing.txt does not exist")


def test_jobs_are_ordered_by_number(tmp_path: Path) -> None:
    for number in (10, 9, 100):
        job(tmp_path, number, {"state": "finished"})
    lines = sweep_table(str(tmp_path)).splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["9", "10", "100"]


def test_bits_per_byte_of_the_last_stage_stand_for_all_metrics(tmp_path: Path) -> None:
    folder = job(tmp_path, 0, {"state": "finished"})
    metrics(
        folder,
        first={"perplexity": {"bits_per_byte": 1.0}},
        last={"perplexity": {"perplexity": 30.0, "bits_per_byte": 2.34567}},
    )
    assert "bits_per_byte 2.346" in sweep_table(str(tmp_path))


def test_without_bits_per_byte_the_first_metric_is_shown(tmp_path: Path) -> None:
    folder = job(tmp_path, 0, {"state": "finished"})
    metrics(folder, only={"classification": {"accuracy": 0.5, "macro_f1": 0.25}})
    assert "accuracy 0.5 " in sweep_table(str(tmp_path))


def test_files_and_hidden_folders_are_no_jobs(tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").write_text("")
    (tmp_path / ".submitit").mkdir()
    assert sweep_table(str(tmp_path)) == f"sweep {tmp_path}:"
