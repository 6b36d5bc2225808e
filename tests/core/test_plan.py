"""Lifecycles before anything runs: what is left out, where checkpoints come from, of what kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ontogeny import CheckpointError, ConfigError, DataError, compose
from ontogeny.configuration import RunConfig
from ontogeny.plan import Plan
from ontogeny.plugins import registry
from ontogeny.stage import Advice, StageResult
from ontogeny.store import Store

DEMO = "lifecycle=demo"
DATA = "stages.instruct.data.path=pkg://ontogeny_plugins.demo/data/domain_instructions.jsonl.gz"
Results = dict[str, StageResult]


def plan(*overrides: str) -> Plan:
    return Plan(compose(list(overrides)), registry())


def checked(home: Path, *overrides: str) -> Plan:
    made = plan(*overrides)
    made.check(Store(home))
    return made


def checkpoint(folder: Path, architecture: str, **lineage: str) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    if lineage:
        (folder / "lineage.json").write_text(json.dumps(lineage))
    return str(folder)


@pytest.mark.parametrize("name", ["demo", "standard"])
def test_the_lifecycles_that_ship_fit_together(name: str, home: Path) -> None:
    made = checked(home, f"lifecycle={name}", DATA)
    assert not made.left_out
    assert made.stages[0] == "pretrain"


def test_stages_outside_of_start_and_stop_are_left_out_with_the_reason() -> None:
    made = plan(DEMO, "start_at=diagnose", "stop_after=adapt")
    assert made.stages == ["diagnose", "adapt"]
    assert made.left_out["pretrain"] == "the run starts at diagnose (start_at)"
    assert made.left_out["align"] == "the run stops after adapt (stop_after)"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stop_after=adap"], r"stop_after is 'adap', no stage .*did you mean 'adapt'"),
        (["start_at=align", "stop_after=adapt"], "which comes after stop_after: 'adapt'"),
        (
            ["start_at=align"],
            r"stages.align.model.source is 'stage:instruct', but instruct is left",
        ),
        (["stages.adapt.model.source=stage:align"], "but align comes later; earlier stages are"),
        (["stages.adapt.model.source=stage:pretain"], "no stage .*did you mean 'pretrain'"),
        (["stages.adapt.when=diagnose"], "stages.adapt: when is 'diagnose'; expected <stage>:<pat"),
        (["stages.adapt.when=diagnos:x"], "but diagnos is no stage of this run .did you mean"),
    ],
)
def test_what_cannot_be_planned_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(DEMO, *overrides)


def test_a_single_stage_has_no_earlier_one() -> None:
    with pytest.raises(ConfigError, match=r"model.source is 'stage:pretrain', .* none is earlier"):
        plan("stage=sft", "model.source=stage:pretrain", "data.path=x")


def test_a_checkpoint_of_the_users_own_leaves_out_what_comes_before(home: Path) -> None:
    source = checkpoint(home.parent / "mine", "LlamaForCausalLM")
    made = checked(home, DEMO, f"stages.adapt.model.source={source}")
    assert made.stages == ["adapt", "instruct", "reward", "align"]
    assert made.left_out["pretrain"] == f"adapt starts from {source}"


def test_stages_that_later_ones_name_are_kept_with_all_that_they_go_on_from(home: Path) -> None:
    source = checkpoint(home.parent / "mine", "LlamaForCausalLM")
    teacher = "stages.align.teacher.source=stage:adapt"
    made = checked(home, DEMO, f"stages.align.model.source={source}", teacher)
    assert made.stages == ["pretrain", "adapt", "align"]


def test_a_stage_that_hands_on_its_source_needs_nothing_before(home: Path) -> None:
    source = checkpoint(home.parent / "mine", "LlamaForCausalLM")
    made = checked(home, DEMO, f"stages.diagnose.model.source={source}")
    assert made.stages == ["diagnose", "adapt", "instruct", "reward", "align"]


def test_what_comes_before_a_stage_that_may_be_left_out_is_kept(home: Path) -> None:
    made = plan("lifecycle=auto", *SOURCES, DATA, "stages.instruct.teacher.source=stage:pretrain")
    assert made.stages == ["pretrain", "diagnose", "adapt", "instruct"]
    assert made._needs("instruct", made.stages) == {"pretrain", "adapt"}


def test_a_preference_stage_after_a_classification_head_is_refused_with_the_reason(
    home: Path,
) -> None:
    with pytest.raises(
        ConfigError,
        match=(
            r"preference with head causal_lm starts from causal_lm or masked_lm, but what "
            r"stages.instruct leaves is of the kind sequence_classification: the output layer .* "
            r"stages.align.model.source"
        ),
    ):
        checked(
            home,
            DEMO,
            "stage@stages.instruct=finetuning",
            "stages.instruct.data.path=pkg://ontogeny_plugins.demo/data/domain_classification"
            ".jsonl.gz",
            "~stages.reward",
            "stages.align.model.source=null",
        )


def test_a_checkpoint_of_the_users_own_has_the_kind_of_its_class(home: Path) -> None:
    source = checkpoint(home.parent / "mine", "LlamaForSequenceClassification")
    with pytest.raises(ConfigError, match=r"is of the kind reward or sequence_classification"):
        checked(home, DEMO, f"stages.align.model.source={source}")


def test_the_lineage_says_more_than_the_class(home: Path) -> None:
    source = checkpoint(home.parent / "mine", "LlamaForSequenceClassification", kind="reward")
    with pytest.raises(ConfigError, match=r"is of the kind reward: "):
        checked(home, "stage=sft", DATA.replace("stages.instruct.", ""), f"model.source={source}")


def test_a_checkpoint_of_an_unknown_class_is_not_refused(home: Path) -> None:
    source = checkpoint(home.parent / "mine", "SomethingNew")
    checked(home, DEMO, f"stages.align.model.source={source}")


def test_an_evaluation_wants_the_kind_of_its_head(home: Path) -> None:
    measured = ("stage@stages.reward=evaluation", "head@stages.reward.head=reward")
    with pytest.raises(ConfigError, match=r"evaluation with head reward starts from reward, but"):
        checked(home, DEMO, *measured)


def test_a_stage_without_a_checkpoint_cannot_be_named_as_a_source(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"but diagnose leaves no checkpoint"):
        checked(home, DEMO, "stages.align.model.source=stage:diagnose")


def test_missing_data_of_a_late_stage_is_told_before_the_first_one_runs(home: Path) -> None:
    with pytest.raises(DataError, match=r"stages.align: nowhere.jsonl does not exist"):
        checked(home, DEMO, "~stages.reward", "stages.align.data.path=nowhere.jsonl")


def test_a_late_stage_without_data_is_told_before_the_first_one_runs(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"no data: set stages.instruct.data.path"):
        checked(home, "lifecycle=standard")


def test_a_missing_checkpoint_of_a_late_stage_is_told_before_the_first_one_runs(home: Path) -> None:
    with pytest.raises(CheckpointError, match=r"teacher.source is './gone', which does"):
        checked(home, DEMO, "stages.align.teacher.source=./gone")


SOURCES = (
    "stages.adapt.data.sources.domain.path=pkg://ontogeny_plugins.demo/data/domain.jsonl.gz",
    "stages.adapt.data.sources.general.path=pkg://ontogeny_plugins.demo/data/general.jsonl.gz",
)


def auto(*overrides: str) -> tuple[Plan, RunConfig]:
    config = compose(["lifecycle=auto", *SOURCES, DATA, *overrides])
    return Plan(config, registry()), config


def advice(path: str, **options: object) -> Results:
    given = {key.replace("__", "."): value for key, value in options.items()}
    return {"diagnose": StageResult(advice=Advice(path, given))}


def test_a_stage_that_was_not_advised_is_left_out_with_the_reason() -> None:
    made, _ = auto()
    assert made.advised("adapt", advice("standard")) == "diagnose advises the path standard"
    assert made.advised("adapt", advice("specialised")) is None
    assert made.advised("instruct", advice("standard")) is None


def test_advice_sets_options_and_adapters() -> None:
    made, config = auto()
    options = {"data__sources__general__weight": 0.25, "adapter__vocabulary__size": 70}
    made.advised("adapt", advice("specialised", adapter=["vocabulary"], **options))
    stage = config.stages["adapt"]
    assert stage.data.sources["general"].weight == 0.25
    assert stage.data.sources["domain"].weight == 0.9
    assert list(stage.adapter) == ["vocabulary"]
    assert vars(stage.adapter["vocabulary"])["size"] == 70


def test_what_the_user_has_set_is_not_overruled_by_advice() -> None:
    made, config = auto(
        "stages.adapt.data.sources.general.weight=0.5", "adapter@stages.adapt.adapter=[lora]"
    )
    made.advised(
        "adapt",
        advice("specialised", adapter=["vocabulary"], data__sources__general__weight=0.25),
    )
    assert config.stages["adapt"].data.sources["general"].weight == 0.5
    assert list(config.stages["adapt"].adapter) == ["lora"]


def test_advice_that_does_not_fit_is_refused_as_on_the_command_line() -> None:
    made, _ = auto()
    with pytest.raises(ConfigError, match=r"data.batch_size is 0"):
        made.advised("adapt", advice("specialised", data__batch_size=0))


def test_sources_are_resolved_to_folders() -> None:
    made, config = auto("stages.instruct.teacher.source=stage:pretrain")
    results = {"pretrain": StageResult(Path("/store/a")), "adapt": StageResult(Path("/store/b"))}
    made.resolve("instruct", results, "/store/b")
    assert config.stages["instruct"].model.source == "/store/b"
    assert config.stages["instruct"].teacher.source == "/store/a"


def test_random_weights_can_be_asked_for_behind_another_stage() -> None:
    made, config = auto("stages.instruct.model.source=stage:none")
    made.resolve("instruct", {}, "/store/b")
    assert config.stages["instruct"].model.source is None


def test_a_source_that_was_left_out_is_told() -> None:
    made, _ = auto("stages.instruct.teacher.source=stage:adapt")
    made.left_out["adapt"] = "diagnose advises the path standard"
    with pytest.raises(ConfigError, match=r"'stage:adapt', which has left no .* path standard"):
        made.resolve("instruct", {}, None)
