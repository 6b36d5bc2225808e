"""What is left of a sweep: the table, the best job, the frontier, the page."""

from __future__ import annotations

import json
import os
import re
import socket
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ontogeny.errors import ConfigError
from ontogeny.evaluator import less_is_better
from ontogeny.options import Sweep
from ontogeny.sweep import Results, finish_sweep, returned_values


def sweep_table(folder: str) -> str:
    """Return the lines of the jobs, without those on the best one."""
    lines = finish_sweep(folder, Sweep()).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("best", "page")))


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
    assert first.split() == ["0", "finished", "optimizer.lr=0.1"]
    assert second.split() == ["1", "not", "run"]


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


def sweep(folder: Path, *values: tuple[float, float], metric: str = "accuracy") -> Path:
    """Make jobs with a value each of a metric and of forgetting; seeds are 0, 1, 2 …"""
    for number, (value, forgotten) in enumerate(values):
        made = job(folder, number, {"state": "finished", "stages": {"s": "finished"}})
        (made / ".hydra" / "overrides.yaml").write_text(f"- seed={number}\n- model=tiny\n")
        measured = {"forgetting": forgotten, "gain/domain": value}
        metrics(made, s={"classification": {metric: value}, "forgetting": measured})
    return folder


def results(folder: Path, **options: object) -> Results:
    return Results(folder, Sweep(**options))


def test_the_best_job_is_the_one_with_most_of_what_is_better_if_more(tmp_path: Path) -> None:
    sweep(tmp_path, (0.5, 0.1), (0.9, 0.2), (0.7, 0.0))
    best = results(tmp_path, metric="s/classification/accuracy").best
    assert best is not None
    assert best.name == "1"


def test_the_best_job_is_the_one_with_least_of_what_is_better_if_less(tmp_path: Path) -> None:
    sweep(tmp_path, (0.5, 0.1), (0.9, 0.2), metric="bits_per_byte")
    best = results(tmp_path).best
    assert best is not None
    assert best.name == "0"


def test_the_mode_decides_where_it_is_set(tmp_path: Path) -> None:
    sweep(tmp_path, (0.5, 0.1), (0.9, 0.2))
    best = results(tmp_path, metric="classification/accuracy", mode="min").best
    assert best is not None
    assert best.name == "0"


def test_a_metric_says_itself_which_way_is_better(tmp_path: Path) -> None:
    sweep(tmp_path, (0.5, 0.1), (0.9, 0.2))
    for number in range(2):
        file = tmp_path / str(number) / "metrics.json"
        content = json.loads(file.read_text())
        content["s"]["classification"]["accuracy"]["less_is_better"] = True
        file.write_text(json.dumps(content))
    best = results(tmp_path, metric="classification/accuracy").best
    assert best is not None
    assert best.name == "0"


@pytest.mark.parametrize(
    ("metric", "less"),
    [
        ("perplexity/bits_per_byte", True),
        ("adapt/perplexity/bits_per_byte/domain", True),
        ("adapt/forgetting/forgetting", True),
        ("adapt/forgetting/gain/domain", False),
        ("align/preference/accuracy", False),
        ("reward/calibration_error", True),
    ],
)
def test_which_way_is_better_by_name(metric: str, less: bool) -> None:
    assert less_is_better(metric) is less


def test_a_job_that_failed_is_not_the_best(tmp_path: Path) -> None:
    sweep(tmp_path, (0.5, 0.1), (0.9, 0.2))
    (tmp_path / "1" / "status.json").write_text(json.dumps({"state": "failed"}))
    best = results(tmp_path, metric="classification/accuracy").best
    assert best is not None
    assert best.name == "0"


def test_the_frontier_has_the_jobs_that_no_other_beats_in_everything(tmp_path: Path) -> None:
    sweep(tmp_path, (0.5, 0.0), (0.9, 0.3), (0.7, 0.1), (0.6, 0.2))
    made = results(tmp_path, metric=["forgetting/gain/domain", "forgetting/forgetting"])
    assert {job.name for job in made.frontier(made.metrics)} == {"0", "1", "2"}


def test_jobs_that_are_equal_are_both_on_the_frontier(tmp_path: Path) -> None:
    sweep(tmp_path, (0.5, 0.1), (0.5, 0.1))
    made = results(tmp_path, metric=["forgetting/gain/domain", "forgetting/forgetting"])
    assert len(made.frontier(made.metrics)) == 2


def test_the_best_checkpoint_is_pointed_to(tmp_path: Path) -> None:
    sweep(tmp_path, (0.5, 0.1), (0.9, 0.2))
    (tmp_path / "1" / "stages" / "s" / "checkpoint").mkdir(parents=True)
    table = finish_sweep(str(tmp_path), Sweep(metric="classification/accuracy"))
    assert "best: job 1, classification/accuracy 0.9" in table
    assert f"best checkpoint: {tmp_path}/1/stages/s/checkpoint" in table
    assert (tmp_path / "best").resolve() == tmp_path / "1"
    assert json.loads((tmp_path / "sweep.json").read_text())["best"] == "1"


def test_a_job_whose_process_is_gone_was_killed(tmp_path: Path) -> None:
    dead = {"state": "running", "host": socket.gethostname(), "pid": 2**22 + 1}
    job(tmp_path, 0, dead)
    job(tmp_path, 1, dead | {"pid": os.getpid()})
    job(tmp_path, 2, dead | {"host": "elsewhere"})
    assert [each.state for each in results(tmp_path).jobs] == ["killed", "running", "running"]


def test_a_metric_that_no_job_has_is_told_with_the_nearest(tmp_path: Path) -> None:
    sweep(tmp_path, (0.5, 0.1))
    missing = results(tmp_path, metric="classification/acuracy").missing
    assert missing is not None
    assert "did you mean 'classification/accuracy'" in missing


def test_what_a_sweeper_gets_are_the_metrics_in_their_order() -> None:
    measured = {"a/p/bits_per_byte": 2.0, "b/p/bits_per_byte": 1.0, "b/q/accuracy": 0.5}
    assert returned_values(measured, Sweep()) == 1.0
    assert returned_values(measured, Sweep(metric="a/p/bits_per_byte")) == 2.0
    assert returned_values(measured, Sweep(metric=["q/accuracy", "p/bits_per_byte"])) == (0.5, 1.0)
    assert returned_values({}, Sweep()) is None
    with pytest.raises(ConfigError, match=r"sweep.metric is 'q/f1', which no stage measures"):
        returned_values(measured, Sweep(metric="q/f1"))


class Reader(HTMLParser):
    """Notes what a page refers to, and that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(folder: Path, **options: object) -> tuple[str, Reader]:
    finish_sweep(str(folder), Sweep(**options))
    text = (folder / "sweep.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return text, reader


def test_the_page_asks_for_nothing_outside_and_runs_no_script(tmp_path: Path) -> None:
    text, reader = page_of(sweep(tmp_path, (0.5, 0.1), (0.9, 0.2)))
    assert reader.links == ["data:,"]
    assert "script" not in reader.tags
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text


def test_the_page_draws_a_line_for_each_job_and_marks_the_best(tmp_path: Path) -> None:
    text, _ = page_of(
        sweep(tmp_path, (0.5, 0.1), (0.9, 0.2), (0.6, 0.2)), metric="classification/accuracy"
    )
    assert text.count('<polyline class="job"') == 2
    assert text.count('<polyline class="job top"') == 1
    assert '<tr class="best"><td>1</td>' in text


def test_the_page_shows_gain_against_forgetting_where_they_were_measured(tmp_path: Path) -> None:
    text, _ = page_of(sweep(tmp_path, (0.5, 0.1), (0.9, 0.2)))
    assert "Gain on the domain against forgetting" in text
    assert text.count("<circle") == 2


def test_the_frontier_line_goes_through_its_jobs_from_left_to_right(tmp_path: Path) -> None:
    text, _ = page_of(
        sweep(tmp_path, (0.5, 0.0), (0.9, 0.3), (0.7, 0.1), (0.6, 0.2)),
        metric=["forgetting/forgetting", "forgetting/gain/domain"],
    )
    found = re.search(r'class="front" points="([^"]*)"', text)
    assert found is not None
    across = [float(point.split(",")[0]) for point in found[1].split()]
    assert len(across) == 3
    assert across == sorted(across)


def test_names_in_the_page_are_escaped(tmp_path: Path) -> None:
    folder = sweep(tmp_path, (0.5, 0.1), (0.9, 0.2))
    (folder / "0" / ".hydra" / "overrides.yaml").write_text("- model=<b>&\n")
    text, _ = page_of(folder)
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text


def test_words_and_one_value_alone_have_a_place_on_an_axis(tmp_path: Path) -> None:
    folder = sweep(tmp_path, (0.5, 0.1), (0.5, 0.1))
    for number, word in enumerate(("gpt2", "llama")):
        (folder / str(number) / ".hydra" / "overrides.yaml").write_text(f"- model={word}\n")
    text, _ = page_of(folder, metric="classification/accuracy")
    assert "nan" not in text
    assert text.count("<polyline class") == 3
