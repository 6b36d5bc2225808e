"""`ontogeny explain`: what an option is, out of the code that uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ontogeny import ConfigError
from ontogeny.explain import explain, field_comments


@dataclass
class Commented:
    """Options of all sorts."""

    plain: int = 1
    behind: float = 0.5  # in metres
    # above, over
    # two lines
    above: str = "#no comment"
    wrapped: list[str] = field(
        default_factory=list  # within
    )


def test_comments_behind_above_and_within_a_field_are_found() -> None:
    assert field_comments(Commented) == {
        "behind": "in metres",
        "above": "above, over two lines",
        "wrapped": "within",
    }


def test_a_component_is_explained_with_types_defaults_comments_and_origin() -> None:
    text = explain(["objective=clm"])
    assert text.startswith("objective=clm: Predict each token from those before it")
    line = "objective.document_start: bool = True  # put the tokenizer's bos (else eos) token"
    assert line in text
    assert text.endswith("From plugin clm (ontogeny 0.1.0).")


def test_a_stage_is_explained_under_the_key_of_its_options() -> None:
    assert "stage.sample_tokens: int = 60  # length of each" in explain(["stage=pretraining"])


def test_an_optimiser_of_the_core_is_explained() -> None:
    assert "optimizer.lr: float = 0.001  # peak learning rate" in explain(["optimizer=adamw"])


def test_a_named_choice_shows_its_file() -> None:
    text = explain(["model=llama_tiny"])
    assert text.startswith("model=llama_tiny: a named choice from ontogeny")
    assert "hidden_size: 128" in text


def test_a_group_lists_its_options() -> None:
    assert explain(["scheduler"]) == "scheduler: constant, cosine, linear, wsd"


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("data.max_length", "data.max_length: int = 512  # tokens in a row of the batch"),
        ("data.validation.share", "data.validation.share: float = 0.05  # held out by hash"),
        ("trainer.max_steps", "trainer.max_steps: int | None = None  # optimiser steps"),
        ("stage.probe_steps", "stage.probe_steps: int = 60  # optimiser steps of each probe"),
    ],
)
def test_a_key_is_explained_in_one_line(key: str, line: str) -> None:
    text = explain([key])
    assert text.startswith(line)
    assert "\n" not in text


def test_a_key_of_several_options_is_explained_for_each() -> None:
    lines = explain(["optimizer.lr"]).splitlines()
    assert lines == [
        "optimizer.lr: float = 0.001  # peak learning rate",
        "optimizer.lr: float = 0.1  # peak learning rate",
    ]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("objective=clmm", "no option objective=clmm (did you mean 'clm'?); known: "),
        ("objectiv=clm", "no group 'objectiv' (did you mean 'objective'?)"),
        ("daat", "no group 'daat' (did you mean 'data'?); known: adapter, "),
        ("data.max_lenght", "no option data.max_lenght (did you mean 'data.max_length'?)"),
        ("daat.max_length", "no option daat.max_length"),
    ],
)
def test_what_is_not_there_is_told_the_nearest(question: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        explain([question])
    assert message in str(caught.value)


@pytest.mark.parametrize("arguments", [[], ["objective=clm", "data"]])
def test_another_number_of_questions_is_told_the_usage(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="usage: ontogeny explain group=option"):
        explain(arguments)


def test_an_option_file_of_a_plugin_is_explained(local_plugin: Callable[..., None]) -> None:
    local_plugin(
        "explained",
        """
        from ontogeny import hookimpl

        @hookimpl
        def ontogeny_config_paths():
            return ["pkg://explained_files/conf"]
        """,
        **{
            "explained_files/__init__.py": "",
            "explained_files/conf/__init__.py": "",
            "explained_files/conf/scheduler/slow.yaml": "defaults: [base, _self_]\nmin_ratio: 0.9",
        },
    )
    text = explain(["scheduler=slow"])
    assert text.startswith("scheduler=slow: a named choice from local module")
    assert "min_ratio: 0.9" in text
