"""What a person sees of a run: lines, samples, a table of metrics, and where it all is."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from rich.console import Console

from ontogeny.evaluator import Metric
from ontogeny.lifecycle import RunResult
from ontogeny.stage import Sample, StageResult
from ontogeny.terminal import _metrics_table, _print_samples, _print_whole

LONG = "a_metric_with_a_name_that_is_far_longer_than_a_column_of_eighty_letters_would_be_wide"


def printed(show: Callable[[Console], None], width: int = 80) -> str:
    text = io.StringIO()
    show(Console(file=text, width=width, highlight=False, soft_wrap=True))
    return text.getvalue()


def result(metrics: Mapping[str, Metric], samples: list[Sample] | None = None) -> RunResult:
    stage = StageResult(metrics={"perplexity": dict(metrics)}, samples=samples or [])
    return RunResult(Path("run"), {"pretraining": stage})


def table(metrics: Mapping[str, Metric], width: int = 80) -> str:
    return printed(lambda console: _print_whole(console, _metrics_table(result(metrics))), width)


def test_a_metric_is_shown_with_its_interval_and_unit() -> None:
    text = table({"bits_per_byte": Metric(2.34567, "bits/byte", 2.3, 2.4)})
    row = next(line for line in text.splitlines() if "bits_per_byte" in line)
    assert re.split(r"\s{2,}", row.strip()) == [
        *("pretraining", "perplexity", "bits_per_byte", "2.346", "2.3 to 2.4", "bits/byte"),
    ]


def test_a_metric_without_an_interval_leaves_its_place_empty() -> None:
    text = table({"accuracy": Metric(0.5, "1")})
    row = next(line for line in text.splitlines() if "accuracy" in line)
    assert row.split() == ["pretraining", "perplexity", "accuracy", "0.5", "1"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_nothing_in_the_table_is_cut_off_whatever_the_terminal(width: int) -> None:
    text = table({LONG: Metric(123456.0, "nats/token", 1e-9, 1e9)}, width)
    row = next(line for line in text.splitlines() if LONG in line)
    assert "1.235e+05" in row
    assert "1e-09 to 1e+09" in row


def test_of_very_many_metrics_their_parts_are_counted_and_not_listed() -> None:
    parts = {f"confusion/{row}/{column}": Metric(1, "rows") for row in "abcdef" for column in "abc"}
    few = {"accuracy": Metric(0.5, "1"), **parts}
    assert "confusion/f/c" in table(few)
    many = {**few, **{f"f1/{number}": Metric(0.5, "1") for number in range(20)}}
    text = table(many)
    assert "accuracy" in text
    assert "confusion/f/c" not in text
    assert "and 38 parts, in metrics.json" in text


def test_samples_are_printed_as_they_are() -> None:
    samples = [Sample("[bold]She", " said [/nothing]\n“yes” 🙂")]
    text = printed(lambda console: _print_samples(console, result({}, samples)))
    assert text == "pretraining writes: [bold]She said [/nothing]\n“yes” 🙂\n"


def test_a_run_ends_with_its_checkpoint_and_its_folder(tiny_run: Callable[..., object]) -> None:
    ended = tiny_run("stage.sample_tokens=3", "stage.prompts=[the]")
    out = ended.out  # type: ignore[attr-defined]
    lines = out.splitlines()
    folder = Path(lines[-1].removeprefix("run: "))
    assert (folder / "status.json").is_file()
    assert lines[-2] == f"pretraining: checkpoint {folder / 'stages/pretraining/checkpoint'}"
    assert (folder / "stages/pretraining/checkpoint/model.safetensors").is_file()
    assert "pretraining writes: the" in out
    assert "bits_per_byte" in out


def test_the_second_run_of_the_same_command_finds_the_first(
    tiny_run: Callable[..., object],
) -> None:
    first = tiny_run()
    second = tiny_run()
    assert "preflight: " in first.out  # type: ignore[attr-defined]
    out = second.out  # type: ignore[attr-defined]
    assert "pretraining: finished before, nothing to train" in out
    assert "preflight: " not in out
    assert "bits_per_byte" in out


def test_a_run_whose_time_is_up_says_after_how_many_steps(tiny_run: Callable[..., object]) -> None:
    ended = tiny_run("trainer.max_time=0.000001s", "trainer.max_steps=50")
    words = r"pretraining: ended after \d+ steps: time is up; the same command goes on"
    assert re.search(words, ended.out)  # type: ignore[attr-defined]
