"""What is printed is accepted: values survive Hydra's grammar, commands compose here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from ontogeny import compose
from ontogeny.configuration import StageConfig
from ontogeny_plugins.diagnosis.measuring import Interval
from ontogeny_plugins.diagnosis.overrides import next_overrides, quoted
from ontogeny_plugins.diagnosis.rule import SPECIALISED, STANDARD, Advice
from ontogeny_plugins.diagnosis.sampling import Sample
from ontogeny_plugins.diagnosis.saving import Saving

STRANGE = [
    "plain/path.jsonl",
    "pkg://ontogeny_plugins.demo/data/domain.jsonl.gz",
    "with space/and,comma.jsonl",
    "a=b/[c]/{d}.jsonl",
    "it's/here.txt",
    'he said "no".txt',
    "back\\slash\\",
    "back\\'both.txt",
    "${oc.env:HOME}/x",
    "~/home",
    "*.jsonl",
    "data/**/*.txt",
    "null",
    "True",
    "123",
    "1e5",
    "umlaut-ä/词.txt",
    "#hash",
    "%per(cent)",
    "",
]


def config(*overrides: str) -> StageConfig:
    paths = ["model.source=m", "data.domain.path=d.jsonl", "data.general.path=g.jsonl"]
    composed = compose(["stage=diagnosis", "adapter=[vocabulary]", *paths, *overrides])
    return composed.stages["diagnosis"]


def saving(tokens: int = 300) -> Saving:
    return Saving("vocabulary", tokens, Interval(0.3, 0.2, 0.4), 0.0, 1, 0.1, 1.0)


def task(path: str, columns: Sequence[str]) -> Sample:
    return Sample("task", path, ["a", "b"], ["c", "d"], 4, 0.5, frozenset(columns))


def test_values_are_read_back_as_they_were() -> None:
    named = {f"s{number}": value for number, value in enumerate(STRANGE)}
    overrides = [f"data.sources.{name}.path={quoted(value)}" for name, value in named.items()]
    assert shlex.split(shlex.join(overrides)) == overrides
    (read,) = compose(overrides).stages.values()
    assert {name: source.path for name, source in read.data.sources.items()} == named


@pytest.mark.parametrize("value", ["null", "1e5", "${oc.env:HOME}/x", "it's/here.txt"])
def test_an_option_of_its_own_is_read_back_as_it_was(value: str) -> None:
    (read,) = compose([f"data.path={quoted(value)}"]).stages.values()
    assert read.data.path == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (None, "null"), (3, "3"), (0.5, "0.5"), ([1, "a b"], "[1,'a b']")],
)
def test_other_values_are_written_in_the_same_grammar(value: object, text: str) -> None:
    assert quoted(value) == text


def test_the_specialised_path_trains_on_the_mixture_with_new_tokens() -> None:
    advice = Advice(path=SPECIALISED, expand=True, replay=0.25)
    options = ["adapter.vocabulary.init=mean", "data.text_column='a b'", "data.max_length=64"]
    overrides = next_overrides(advice, config(*options), None, saving())
    assert overrides == [
        "stage=continued_pretraining",
        "model.source=m",
        "data.text_column='a b'",
        "data.max_length=64",
        "data.sources.domain.path=d.jsonl",
        "data.sources.domain.weight=0.75",
        "data.sources.general.path=g.jsonl",
        "data.sources.general.weight=0.25",
        "adapter=[vocabulary]",
        "adapter.vocabulary.size=300",
        "adapter.vocabulary.init=mean",
    ]
    (stage,) = compose(overrides).stages.values()
    assert stage.data.sources["general"].weight == 0.25
    assert advice.notes == []


def test_a_size_that_the_user_has_set_is_kept() -> None:
    advice = Advice(path=SPECIALISED, expand=True, replay=0.1)
    sized = config("adapter.vocabulary.size=500")
    overrides = next_overrides(advice, sized, None, saving(tokens=412))
    assert [item for item in overrides if "size" in item] == ["adapter.vocabulary.size=500"]


def test_without_new_tokens_there_is_no_adapter() -> None:
    advice = Advice(path=SPECIALISED, replay=0.0)
    overrides = next_overrides(advice, config(), None, saving())
    assert not any("adapter" in item for item in overrides)
    assert overrides[-1] == "data.sources.general.weight=0"  # measured, not trained on


def test_strange_paths_compose() -> None:
    folder = "my data, [v2]/it's"
    strange = config(f"model.source={quoted(folder)}", f"data.domain.path={quoted(folder)}")
    overrides = next_overrides(Advice(path=SPECIALISED, replay=0.1), strange, None, None)
    (stage,) = compose(overrides).stages.values()
    assert stage.model.source == folder
    assert stage.data.sources["domain"].path == folder


@pytest.mark.parametrize(
    ("columns", "stage"),
    [
        (("text", "label"), "finetuning"),
        (("question", "context", "label"), "finetuning"),
        (("tokens", "tags"), "finetuning_tagging"),
        (("question", "context", "answers"), "finetuning_qa"),
        (("question", "choices", "label"), "finetuning_choice"),
        (("prompt", "completion"), "sft"),
        (("prompt", "chosen", "rejected"), "preference"),
        (("prompt", "completion", "label"), "preference_unpaired"),
        (("messages",), "sft"),
        (("text",), "continued_pretraining"),
    ],
)
def test_the_standard_path_goes_to_the_stage_of_the_task(
    columns: Sequence[str], stage: str
) -> None:
    advice = Advice(path=STANDARD)
    overrides = next_overrides(advice, config(), task("my task.jsonl", columns), None)
    assert overrides == [f"stage={stage}", "model.source=m", "data.path='my task.jsonl'"]
    assert advice.notes == []


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        (("prompt", "answer"), "no stage is known for a task whose rows have answer, prompt"),
        (("messages", "label"), None),
    ],
)
def test_a_task_is_sent_to_no_stage_that_could_not_read_it(
    columns: Sequence[str], note: str | None
) -> None:
    advice = Advice(path=STANDARD)
    overrides = next_overrides(advice, config(), task("task.jsonl", columns), None)
    assert bool(overrides) is (note is None)
    assert advice.notes == ([] if note is None else [note])


def test_a_stage_whose_objective_reads_other_rows_is_not_advised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = ((("prompt",), ("finetuning", "sft")),)
    monkeypatch.setattr("ontogeny_plugins.diagnosis.overrides.TASK_STAGES", stages)
    advice = Advice(path=STANDARD)
    rows = task("task.jsonl", ("completion", "prompt"))
    assert next_overrides(advice, config(), rows, None)[0] == "stage=sft"
    assert (
        "stage=finetuning reads text + label, or question + context + label; the rows"
        in (advice.notes[0])
    )


def test_without_a_task_the_standard_path_asks_for_one() -> None:
    advice = Advice(path=STANDARD)
    assert next_overrides(advice, config(), None, None) == ["stage=sft", "model.source=m"]
    assert advice.notes[0].startswith("add data.path=YOUR_TASK to the command")


def test_where_a_stage_is_missing_the_next_best_stands_in_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ontogeny.plugins import registry

    options = config()
    monkeypatch.setenv("ONTOGENY_DISABLE_PLUGINS", "continued_pretraining")
    registry.cache_clear()
    try:
        advice = Advice(path=SPECIALISED, replay=0.1)
        assert next_overrides(advice, options, None, None)[0] == "stage=pretraining"
    finally:
        registry.cache_clear()
    assert advice.notes[0].startswith("not usable here: ")
    assert advice.notes[0].endswith("; stage=pretraining stands in")


def test_where_nothing_can_be_run_there_is_no_command_but_a_reason(tmp_path: Path) -> None:
    advice = Advice(path=STANDARD)
    broken = config("data.max_length=64")
    broken.data.max_length = 0
    assert next_overrides(advice, broken, task(str(tmp_path), ("text",)), None) == []
    assert "data.max_length is 0; expected 1 or more" in advice.notes[0]
