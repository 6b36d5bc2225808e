"""What Hydra says, in our words: one line, the key, what is allowed, what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from ontogeny import ConfigError
from ontogeny._hydra import _for_optuna, canonical, compose_config, overrides_of, run_main


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_config(overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_step=4", "no option trainer.max_step (did you mean 'trainer.max_steps'?)"),
        ("data.pth=a", "no option data.pth (did you mean 'data.path'?)"),
        ("objective.document_ends=1", "(did you mean 'objective.document_end'?)"),
        ("evaluator.perplexity.batch=1", "(did you mean 'evaluator.perplexity.batch_size'?)"),
        ("stge=pretraining", "no option stge (did you mean 'stage'?)"),
        ("sede=1", "no option sede (did you mean 'seed'?)"),
        ("trainer.Max_Steps=4", "(did you mean 'trainer.max_steps'?)"),
        ("max_steps=4", "no option max_steps (did you mean 'trainer.max_steps'?)"),
    ],
)
def test_a_misspelt_key_is_told_the_nearest(override: str, message: str) -> None:
    assert message in refused(override)


def test_the_options_beside_a_misspelt_one_are_listed() -> None:
    known = "known: optimizer._target_, optimizer.lr, optimizer.embedding_lr, optimizer.betas"
    assert known in refused("optimizer.zzzzz=1")


def test_a_second_mistake_does_not_hide_the_advice() -> None:
    assert "did you mean 'trainer.max_steps'" in refused("trainer.max_step=4", "data.pth=a")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=abc", "optimizer.lr is 'abc'; expected a number"),
        ("trainer.max_steps=two", "trainer.max_steps is 'two'; expected a whole number"),
        ("trainer.max_steps=1.5", "trainer.max_steps is '1.5'; expected a whole number"),
        ("data.packing=perhaps", "data.packing is 'perhaps'; expected true or false"),
        ("stage.prompts=hello", "stage.prompts is no list; expected one, as 'stage.prompts=[a,b]'"),
        ("evaluator.perplexity.resamples=x", "resamples is 'x'; expected a whole number"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_the_right_one(override: str, message: str) -> None:
    assert refused(override).endswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=lama_tiny", "model=lama_tiny: no such option (did you mean 'llama_tiny'?); known"),
        ("objective=clmm", "objective=clmm: no such option (did you mean 'clm'?); known: "),
        ("stage=pretrain", "stage=pretrain: no such option (did you mean 'pretraining'?)"),
        ("evaluator=[perplexty]", "no such option (did you mean 'perplexity'?); known: "),
        ("recipe=demos", "recipe=demos: no such option (did you mean 'demo'?)"),
    ],
)
def test_an_option_that_is_not_there_is_told_the_nearest(override: str, message: str) -> None:
    assert message in refused(override)


def test_what_stands_under_a_group_only_for_other_files_is_not_advertised() -> None:
    assert "base" not in refused("trainer=cpuu").partition("known: ")[2]


def test_a_comma_without_a_sweep_is_explained() -> None:
    assert refused("data.path=a,b") == (
        "data.path=a,b holds a comma: -m sweeps over the values, 'data.path=[a,b]' is a list, "
        "'data.path=\"a,b\"' is one text"
    )


@pytest.mark.parametrize("override", ["data.path=[a", "data.path=a=b", "data.path={a", "seed=(1"])
def test_overrides_that_cannot_be_read_are_told_about_quotes(override: str) -> None:
    message = refused(override)
    assert message.startswith(f"cannot read '{override}': ")
    assert "; quote values that hold commas, brackets, spaces or = signs: " in message
    assert message.endswith("'key=\"a,b\"'")


def test_deleting_what_is_not_there_names_it() -> None:
    assert "nothing_here" in refused("~nothing_here")


def test_overrides_are_told_from_flags_and_their_values() -> None:
    arguments = ["seed=1", "--cfg", "job", "-m", "--config-dir", "folder", "~logger", "a=b"]
    assert overrides_of(arguments) == ["seed=1", "~logger", "a=b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--halp"], "unrecognized arguments: --halp; see ontogeny --help"),
        (["--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["--config-dir"], "expected one argument"),
    ],
)
def test_a_flag_that_hydra_lacks_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        overrides_of(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wished", [None, "0", "1"])
def test_neither_the_environment_nor_the_arguments_of_the_process_change(
    wished: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if wished is None:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    else:
        monkeypatch.setenv("HYDRA_FULL_ERROR", wished)
    before = sys.argv[:]
    run_main(lambda _: None, ["--cfg", "job", "-p", "trainer"])
    assert "max_steps: null" in capsys.readouterr().out
    assert os.environ.get("HYDRA_FULL_ERROR") == wished
    assert sys.argv == before


ALIASED = "pretraining.sample_tokens=7"


@pytest.mark.parametrize(
    "overrides",
    [
        [ALIASED],
        ["stage=pretraining", ALIASED],
        ["recipe=demo", ALIASED],
        [f"++{ALIASED}"],
        ["pretraining.sample_tokens=3", "stage.sample_tokens=7"],
        ["stage.sample_tokens=3", ALIASED],
    ],
)
def test_the_name_of_the_root_stage_stands_for_its_options(overrides: list[str]) -> None:
    assert compose_config(overrides).stage.sample_tokens == 7


def test_a_named_variant_of_a_stage_takes_the_name_of_its_component_too() -> None:
    config = compose_config(["stage=pretraining_mlm", ALIASED, "pretraining_mlm.temperature=0.5"])
    assert (config.stage.sample_tokens, config.stage.temperature) == (7, 0.5)


def test_the_command_line_takes_the_name_of_the_root_stage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_main(lambda _: None, [ALIASED, "--cfg", "job", "-p", "stage"])
    assert "sample_tokens: 7" in capsys.readouterr().out


def test_in_a_lifecycle_there_is_no_root_stage(local_plugin: Callable[..., None]) -> None:
    lifecycle = """\
        # @package _global_
        defaults:
          - /stage@stages.pretrain: pretraining
          - override /stage: null
        """
    plugin = """\
        from ontogeny import hookimpl

        @hookimpl
        def ontogeny_config_paths():
            return ["pkg://lived.conf"]
        """
    files = {"lived/__init__.py": plugin, "lived/conf/__init__.py": ""}
    local_plugin("lived", plugin, **files, **{"lived/conf/lifecycle/one.yaml": lifecycle})
    within = "stages.pretrain.stage.sample_tokens=7"
    assert compose_config(["lifecycle=one", within]).stages.pretrain.stage.sample_tokens == 7
    message = refused("lifecycle=one", ALIASED)
    assert message.startswith("no option pretraining.sample_tokens: pretraining is not the stage")
    assert message.endswith("in a lifecycle as stages.<name>.stage.sample_tokens")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["pretraining.sample_tokenz=7"],
            "no option pretraining.sample_tokenz (did you mean 'pretraining.sample_tokens'?); ",
        ),
        (
            ["pretraining.sample_tokens=many"],
            "pretraining.sample_tokens is 'many'; expected a whole number",
        ),
        (
            ["stage=pretraining", "diagnosis.probe=true"],
            "no option diagnosis.probe: diagnosis is not the stage of this command; its options go",
        ),
        (["stage.sample_tokenz=7"], "no option stage.sample_tokenz (did you mean 'stage.sample_"),
        (["stage=pretrain", ALIASED], "stage=pretrain: no such option (did you mean 'pretrain"),
    ],
)
def test_what_is_wrong_is_told_under_the_name_that_was_used(
    overrides: list[str], message: str
) -> None:
    assert refused(*overrides).startswith(message)


def test_only_the_beginning_of_an_override_is_taken_for_the_name_of_a_stage() -> None:
    others = ["data.path=pretraining.x", "trainer.max_steps=3", "model.config.pretraining.x=1"]
    assert canonical([*others, "pretraining.prompts=[pretraining.y]"]) == [
        *others,
        "stage.prompts=[pretraining.y]",
    ]
    assert canonical(others) == others


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=1"], []),
        (["hydra/sweeper=optuna"], ["sampler.seed=0", "max_failure_rate=1.0"]),
        (
            ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid"],
            ["max_failure_rate=1.0"],
        ),
        (
            ["hydra/sweeper=optuna", "sweep.metric=align/preference/accuracy"],
            ["sampler.seed=0", "max_failure_rate=1.0", "direction=maximize"],
        ),
        (
            ["hydra/sweeper=optuna", "sweep.metric=[a/forgetting/gain/x,a/forgetting/forgetting]"],
            ["sampler.seed=0", "max_failure_rate=1.0", "direction=[maximize,minimize]"],
        ),
        (
            ["hydra/sweeper=optuna", "sweep.metric=accuracy", "hydra.sweeper.direction=minimize"],
            ["sampler.seed=0", "max_failure_rate=1.0"],
        ),
        (
            ["hydra/sweeper=optuna", "sweep.mode=max"],
            ["sampler.seed=0", "max_failure_rate=1.0", "direction=maximize"],
        ),
    ],
)
def test_a_search_with_optuna_is_given_what_the_user_does_not_say(
    overrides: list[str], expected: list[str]
) -> None:
    assert _for_optuna(overrides) == [f"hydra.sweeper.{item}" for item in expected]
