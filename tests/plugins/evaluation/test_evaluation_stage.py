"""The stage that only measures: a saved checkpoint, all rows, and no training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ontogeny import ConfigError, DataError, compose, run
from ontogeny.adapter import Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.evaluator import EvaluationData
from ontogeny.lifecycle import RunResult
from ontogeny.options import Data
from ontogeny.plugins import registry
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.perplexity import Perplexity
from ontogeny_plugins.perplexity.evaluator import PerplexityEvaluator

LENGTH = "data.max_length=32"
ENDS = ("amber", "basil", "cedar", "delta", "ember", "flint", "grape", "hazel", "ivory", "jewel")
ROWS = [f"it is the one of the {word}." for word in ENDS]


@dataclass
class Place:
    """A saved model and a file of rows."""

    folder: Path
    model: LlamaForCausalLM
    lines: list[str]

    @property
    def text(self) -> Path:
        return self.rows("text", [{"text": row} for row in ROWS])

    def rows(self, name: str, rows: list[dict[str, object]]) -> Path:
        file = self.folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    def run(self, *overrides: str, source: str | None = "checkpoint") -> RunResult:
        given = [] if source is None else [f"model.source={self.folder / source}"]
        stage = ["stage=evaluation", "trainer.accelerator=cpu", "precision=32-true", LENGTH]
        config = compose([*stage, *given, *overrides])
        return run(config, self.folder / "run", self.lines.append)


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Place:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(
        vocab_size=259, num_attention_heads=2, max_position_embeddings=64, eos_token_id=0, **sizes
    )
    model = LlamaForCausalLM(config)
    head = registry().get("head", "causal_lm").component.load()(None)
    save_checkpoint(Bundle(cast("Any", model), byte_tokenizer(), head), tmp_path / "checkpoint", {})
    return Place(tmp_path, model.eval(), [])


def values(result: RunResult, evaluator: str) -> dict[str, float]:
    return {name: each.value for name, each in result.metrics["evaluation"][evaluator].items()}


def test_all_rows_are_measured_as_the_evaluator_alone_measures_them(place: Place) -> None:
    result = place.run(f"data.path={place.text}")
    own = Bundle(cast("Any", place.model), byte_tokenizer(), cast("Any", None))
    data = EvaluationData({"data": [{"text": row} for row in ROWS]}, Data(max_length=32))
    with torch.no_grad():
        expected = PerplexityEvaluator(Perplexity()).evaluate(own, data)
    assert result.checkpoint is None
    alone = {name: metric.value for name, metric in expected.items()}
    assert values(result, "perplexity") == pytest.approx(alone)
    assert f"evaluation: data: {place.text}: 10 rows to evaluate" in place.lines


def test_the_metrics_stand_in_metrics_json_under_the_name_of_the_stage(place: Place) -> None:
    result = place.run(f"data.path={place.text}", "evaluator=[perplexity,domain_accuracy]")
    written = json.loads((result.folder / "metrics.json").read_text())
    assert list(written) == ["evaluation"]
    assert set(written["evaluation"]) == {"perplexity", "domain_accuracy"}
    accuracy = written["evaluation"]["domain_accuracy"]["accuracy"]
    assert set(accuracy) == {"value", "unit", "low", "high"}
    assert not (result.folder / "stages/evaluation/checkpoint").exists()


def test_the_same_evaluation_again_is_found_in_the_store(place: Place) -> None:
    text = place.text
    first = place.run(f"data.path={text}")
    again = place.run(f"data.path={text}")
    assert again.metrics == first.metrics
    assert any("finished before" in line for line in place.lines)


def test_other_rows_in_an_evaluators_own_file_are_another_evaluation(place: Place) -> None:
    row: dict[str, object] = {"question": "q", "choices": ["a", "b"], "answer": 0}
    options = ["evaluator=[few_shot]", "evaluator.few_shot.k=0"]
    file = place.rows("own", [row] * 3)
    place.run(*options, f"evaluator.few_shot.path={file}")
    place.rows("own", [{**row, "answer": 1}] * 3)
    place.run(*options, f"evaluator.few_shot.path={file}")
    assert not any("finished before" in line for line in place.lines)


def test_evaluators_with_rows_of_their_own_need_no_data(place: Place) -> None:
    options = ["evaluator=[safety]", "evaluator.safety.limit=2", "evaluator.safety.max_tokens=2"]
    file = place.rows("safety", [{"prompt": "p", "harmful": each} for each in (True, False)])
    found = values(place.run(*options, f"evaluator.safety.path={file}"), "safety")
    assert found == {"refusal_rate": 0, "false_refusal_rate": 0}


def test_sources_are_measured_together_and_each_alone(place: Place) -> None:
    other = place.rows("other", [{"text": "quite another text"}] * 3)
    sources = [f"data.sources.a.path={place.text}", f"data.sources.b.path={other}"]
    found = values(place.run(*sources), "perplexity")
    assert {"bits_per_byte", "bits_per_byte/a", "bits_per_byte/b"} <= set(found)


def test_so_many_rows_of_a_source_may_be_enough(place: Place) -> None:
    whole = values(place.run(f"data.path={place.text}"), "perplexity")
    part = values(place.run(f"data.path={place.text}", "data.validation.limit=2"), "perplexity")
    two = place.rows("two", [{"text": row} for row in ROWS[:2]])
    assert part == values(place.run(f"data.path={two}"), "perplexity")
    assert part != whole


def test_whole_types_of_numbers_are_those_of_the_model(place: Place) -> None:
    exact = values(place.run(f"data.path={place.text}", "precision=64-true"), "perplexity")
    rough = values(place.run(f"data.path={place.text}", "precision=bf16-true"), "perplexity")
    assert exact != rough
    assert exact == pytest.approx(rough, rel=0.02)


def test_bad_rows_are_an_error_with_file_and_line_or_left_out_and_kept(place: Place) -> None:
    rows: list[dict[str, object]] = [
        {"text": "a good row"},
        {"prompt": "no text"},
        {"text": "good"},
    ]
    file = place.rows("bad", rows)
    with pytest.raises(DataError, match=r"bad.jsonl:2: evaluator perplexity: no column 'text'"):
        place.run(f"data.path={file}")
    result = place.run(f"data.path={file}", "data.on_error=skip")
    kept = result.folder / "stages/evaluation/rejected-data.jsonl"
    assert json.loads(kept.read_text())["where"].endswith("bad.jsonl:2")
    assert "evaluation: data: 1 bad rows left out, see rejected-data.jsonl" in place.lines


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluator=[]"], "evaluator is empty, so there is nothing to measure; choose some of "),
        ([], r"evaluator perplexity measures rows with text, but there are none: set data.path"),
        (["data.path=TEXT", "adapter=[lora]"], "adapter is lora, but an evaluation trains nothing"),
        (["data.path=TEXT", "optimizer.lr=1"], "nothing reads optimizer.lr in an evaluation"),
        (["data.path=TEXT", "data.max_length=65"], "data.max_length is 65, longer than the conte"),
        (
            ["data.path=TEXT", "evaluator=[generation]"],
            "evaluator generation: no column 'prompt'",
        ),
    ],
)
def test_what_cannot_be_measured_is_an_error_that_says_what_to_do(
    place: Place, overrides: list[str], words: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        place.run(*[each.replace("TEXT", str(place.text)) for each in overrides])


@pytest.mark.parametrize(
    ("evaluator", "column", "bad", "words"),
    [
        ("few_shot", "answer", "z", "answer is 'z'; expected an index from 0 to 1"),
        ("domain_accuracy", "answer", 7, "answer is 7; expected an index from 0 to 1"),
        ("instruction_following", "instructions", [{"id": "x:y"}], "has the instruction 'x:y'"),
        ("safety", "harmful", "perhaps", "harmful is 'perhaps'; expected true or false"),
    ],
)
def test_what_an_evaluator_cannot_use_is_named_by_file_and_line(
    place: Place, evaluator: str, column: str, bad: object, words: str
) -> None:
    row: dict[str, object] = {
        "prompt": "p",
        "choices": ["a", "b"],
        "answer": 0,
        "harmful": True,
        "instructions": [{"id": "punctuation:no_comma"}],
    }
    file = place.rows("rows", [row, {**row, "harmful": False}, {**row, column: bad}])
    with pytest.raises(DataError, match=rf"rows.jsonl:3: .*{words}"):
        place.run(f"evaluator=[{evaluator}]", f"evaluator.{evaluator}.path={file}")


def test_rows_of_the_data_are_named_by_file_and_line_too(place: Place) -> None:
    file = place.rows("asked", [{"question": "q", "choices": ["a", "b"], "answer": "z"}])
    with pytest.raises(DataError, match=r"asked.jsonl:1: answer is 'z'"):
        place.run("evaluator=[few_shot]", "evaluator.few_shot.k=0", f"data.path={file}")


def test_a_checkpoint_must_be_named(place: Place) -> None:
    with pytest.raises(ConfigError, match=r"model.source is not set; evaluation measures a checkp"):
        place.run(f"data.path={place.text}", source=None)


def test_keys_that_nothing_reads_pass_without_the_preflight(place: Place) -> None:
    place.run(f"data.path={place.text}", "optimizer.lr=1", "preflight=off")


def test_several_checkpoints_are_measured_in_one_sweep(
    place: Place, cli: Callable[..., Any]
) -> None:
    both = f"{place.folder / 'checkpoint'},{place.folder / 'other'}"
    (place.folder / "other").symlink_to(place.folder / "checkpoint")
    ended = cli(
        *("-m", "stage=evaluation", "trainer.accelerator=cpu", LENGTH, "precision=32-true"),
        *(f"model.source={both}", f"data.path={place.text}"),
    )
    assert ended.code == 0
    assert ended.out.count("finished    bits_per_byte") == 2


def test_evaluators_run_in_the_loop_of_a_training(tiny_run: Callable[..., Any], home: Path) -> None:
    ended = tiny_run(
        *("evaluator=[instruction_following,safety]", "model.config.max_position_embeddings=256"),
        *("evaluator.safety.max_tokens=1", "evaluator.safety.limit=2"),
        *(
            "evaluator.instruction_following.max_tokens=1",
            "evaluator.instruction_following.limit=2",
        ),
        *("trainer.evaluate_every=1", "hydra.run.dir=run"),
    )
    assert ended.code == 0, ended.err
    log = Path("run/stages/pretraining/logs/metrics.csv").read_text().splitlines()
    assert "evaluation/instruction_following/prompt_accuracy_loose" in log[0]
    assert "evaluation/safety/false_refusal_rate" in log[0]


def test_what_an_evaluator_would_fail_on_stops_the_training_before_its_first_step(
    tiny_run: Callable[..., Any],
) -> None:
    ended = tiny_run("evaluator=[generation]")
    assert ended.code == 2
    assert "evaluator.generation: a row to evaluate on, of source data: no column" in ended.err
    assert "step" not in ended.out
