"""From a composed config to typed options, and from options to plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ontogeny import ConfigError, compose
from ontogeny.configuration import RUN_KEYS, StageConfig, plain, stable, typed
from ontogeny.options import VOLATILE, AdamW, Data, Schedule, Source, Trainer


def stage(*overrides: str) -> StageConfig:
    return compose(overrides).stages["pretraining"]


@pytest.fixture(scope="module")
def default() -> StageConfig:
    return stage()


def test_every_part_of_a_stage_is_an_object_of_its_type(default: StageConfig) -> None:
    assert isinstance(default.data, Data)
    assert isinstance(default.optimizer, AdamW)
    assert isinstance(default.scheduler, Schedule)
    assert isinstance(default.trainer, Trainer)
    assert type(default.objective).__name__ == "CLM"
    assert type(default.head).__name__ == "CausalLM"
    assert type(default.evaluator["perplexity"]).__name__ == "Perplexity"
    assert default.adapter == {}


def test_a_run_of_one_stage_is_called_after_the_stage() -> None:
    run = compose(["seed=3"])
    assert list(run.stages) == ["pretraining"]
    assert run.overrides == ["seed=3"]


def test_values_are_of_the_types_that_were_declared() -> None:
    config = stage("optimizer.lr=1e-2", "data.max_length=100", "optimizer.betas=[0.5,0.6]")
    assert isinstance(config.optimizer, AdamW)
    assert (config.optimizer.lr, list(config.optimizer.betas)) == (0.01, [0.5, 0.6])
    assert config.data.max_length == 100


def test_a_group_is_chosen_whole() -> None:
    config = stage("optimizer=sgd", "scheduler=wsd", "model=gpt2_tiny")
    assert type(config.optimizer).__name__ == "SGD"
    assert config.scheduler == Schedule(shape="wsd")
    assert config.model.config["model_type"] == "gpt2"


def test_architectures_take_options_that_their_file_does_not_name() -> None:
    config = stage("model.config.rope_theta=5000", "model.config.hidden_size=32")
    assert config.model.config["rope_theta"] == 5000
    assert config.model.config["hidden_size"] == 32


def test_sources_of_a_mixture_are_named_on_the_command_line() -> None:
    config = stage(
        *("data.sources.domain.path=a.txt", "data.sources.domain.weight=0.9"),
        *("data.sources.replay.path=b.txt", "data.sources.replay.weight=0.1"),
    )
    assert config.data.sources == {"domain": Source("a.txt", 0.9), "replay": Source("b.txt", 0.1)}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.path=a.txt", "data.sources.b.path=b.txt"], "data.path and data.sources are both"),
        (["data.sources.b.weight=1"], "data.sources.b.path is not set"),
        (["data.sources.b=b.txt"], "data.sources.b.path is not set"),
        (["data.sources.b.path=b", "data.sources.b.wieght=1"], "wieght .did you mean 'weight'"),
        (["data.sources.b.path=b", "data.sources.b.weight=lots"], "weight is 'lots'; expected a n"),
        (["data.max_length=0"], "data.max_length is 0; expected 1 or more"),
        (["data.workers=-1"], "data.workers is -1; expected 0 or more"),
        (["data.validation.share=1.0"], "data.validation.share is 1.0; expected 0 <= share < 1"),
        (["data.validation.limit=0"], "data.validation.limit is 0; expected 1 or more"),
        (["data.text_unit=word"], "data.text_unit is 'word'; expected one of document, paragraph"),
        (["data.on_error=ignore"], "data.on_error is 'ignore'; expected one of error, skip"),
        (["trainer.max_steps=0"], "trainer.max_steps is 0; expected 1 or more"),
        (["trainer.gradient_clip_val=0"], "trainer.gradient_clip_val is 0.0; expected more than 0"),
        (["trainer.save_every_minutes=-1"], "trainer.save_every_minutes is -1.0"),
        (["trainer.evaluate_every=-1"], "trainer.evaluate_every is -1; expected 0 or more"),
        (["trainer.compile=maybe"], "trainer.compile is 'maybe'; expected one of auto, true, fa"),
        (["optimizer.betas=[0.9]"], "optimizer.betas is .0.9.; expected two numbers"),
        (["seed=-1"], "seed is -1; expected a whole number of 0 or more"),
        (["seed=1.5"], "seed is 1.5; expected a whole number"),
        (["seed=true"], "seed is True; expected a whole number"),
        (["precision=fp8"], "precision is 'fp8'; expected one of auto, 32-true"),
        (["resume=yes"], "resume is .*; expected one of auto, never, must"),
        (["preflight=maybe"], "preflight is 'maybe'; expected on or off"),
        (["stage.sample_tokens=-1"], "stage.sample_tokens .* must be 0 or more"),
        (["evaluator.perplexity.resamples=0"], "evaluator.perplexity.resamples is 0; expected 1"),
        (["evaluator.perplexity.max_length=0"], "evaluator.perplexity.max_length is 0"),
        (["+data.foo=1"], "no option data.foo; known: path, sources"),
        (["+objective.document_edn=1"], "document_edn .did you mean 'document_end'"),
        (["+evaluator.perplexity.batch=1"], "no option evaluator.perplexity.batch .did you mean"),
        (["+sed=1"], "no option sed .did you mean 'seed'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("word", "expected"), [("off", False), ("on", True), ("false", False)])
def test_preflight_is_switched_with_words(word: str, expected: bool) -> None:
    assert stage(f"preflight={word}").preflight is expected


@pytest.mark.parametrize("word", ["true", "False", "auto"])
def test_compilation_is_switched_with_words(word: str) -> None:
    assert stage(f"trainer.compile={word}").trainer.compile == word.lower()


def composed() -> dict[str, object]:
    from ontogeny._hydra import compose_config

    return {str(key): each for key, each in compose_config([]).items() if key not in RUN_KEYS}


def test_stages_of_a_lifecycle_keep_their_order_and_names() -> None:
    run = typed(OmegaConf.create({"stages": {"zwei": composed(), "eins": composed()}}), [])
    assert list(run.stages) == ["zwei", "eins"]


def test_a_key_beside_the_stages_of_a_lifecycle_is_an_error() -> None:
    config = OmegaConf.create({"stages": {"one": composed()}, "seed": 1})
    with pytest.raises(ConfigError, match=r"seed stands beside stages; .* as stages.<name>.seed"):
        typed(config, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": None}, "stages.one.stage is not set; choose one"),
        ({"seed": -1}, "stages.one.seed is -1"),
        ({"sede": 1}, "no option stages.one.sede .did you mean 'seed'"),
        ({"precision": "fp8"}, "stages.one.precision is 'fp8'"),
    ],
)
def test_an_error_in_a_lifecycle_names_the_stage(change: dict[str, object], words: str) -> None:
    config = OmegaConf.create({"stages": {"one": composed() | change}})
    with pytest.raises(ConfigError, match=words):
        typed(config, [])


def test_a_value_that_must_be_given_is_asked_for() -> None:
    config = OmegaConf.create(composed() | {"precision": "???"})
    with pytest.raises(ConfigError, match=r"precision is not set; give it a value: precision=..."):
        typed(config, [])


@dataclass
class Inner:
    kept: int = 1
    speed: int = field(default=2, metadata=VOLATILE)


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    listed: list[Inner] = field(default_factory=lambda: [Inner()])
    named: dict[str, Inner] = field(default_factory=lambda: {"a": Inner()})
    path: str | None = field(default=None, metadata=VOLATILE)


def test_stable_data_leaves_out_what_cannot_change_a_result_at_any_depth() -> None:
    inner = {"options": "Inner", "kept": 1}
    assert stable(Outer()) == {
        "options": "Outer",
        "inner": inner,
        "listed": [inner],
        "named": {"a": inner},
    }


def test_plain_data_has_everything() -> None:
    inner = {"kept": 1, "speed": 2}
    expected = {"inner": inner, "listed": [inner], "named": {"a": inner}, "path": None}
    assert plain(Outer()) == expected


class Shape(Enum):
    ROUND = 1


@dataclass
class Odd:
    shape: Shape = Shape.ROUND
    folder: Path = Path("a/b")


def test_choices_and_paths_become_text() -> None:
    assert plain(Odd()) == {"shape": "ROUND", "folder": "a/b"}
    assert stable(Odd()) == {"options": "Odd", "shape": "ROUND", "folder": "a/b"}
