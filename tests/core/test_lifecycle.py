"""Whole lifecycles of tiny models: what is run again, and what is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ontogeny import ConfigError, compose, run
from ontogeny.checkpoint import read_lineage
from ontogeny.lifecycle import RunResult
from ontogeny.plugins import registry

QUESTIONS = "".join(
    json.dumps({"prompt": f"what is {number}?", "completion": f"the river {number} of stone"})
    + "\n"
    for number in range(40)
)
TEXT = "".join(
    json.dumps({"text": f"{number}: the old river came down to the stone house"}) + "\n"
    for number in range(40)
)
MODEL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
STAGES = ("pretrain", "adapt", "instruct")
SHORT = ("data.max_length=32", "data.batch_size=2", "trainer.max_steps=2", "preflight=off")
Live = Callable[..., RunResult]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("life")
    for name, text in (("general", TEXT), ("domain", TEXT.replace("old", "new"))):
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "questions.jsonl").write_text(QUESTIONS)
    return folder


def overrides(place: Path) -> list[str]:
    return [
        "lifecycle=three",
        *(f"stages.pretrain.model.config.{key}={value}" for key, value in MODEL.items()),
        "stages.pretrain.tokenizer.vocab_size=300",
        f"stages.pretrain.data.path={place}/general.jsonl",
        f"stages.adapt.data.path={place}/domain.jsonl",
        f"stages.instruct.data.path={place}/questions.jsonl",
        *(f"stages.{stage}.{key}" for stage in STAGES for key in SHORT),
        *(f"stages.{stage}.stage.sample_tokens=0" for stage in STAGES),
        *(f"stages.{stage}.trainer.accelerator=cpu" for stage in STAGES),
        *(f"evaluator@stages.{stage}.evaluator=[]" for stage in STAGES[:2]),
    ]


THREE = """\
# @package _global_
defaults:
  - /stage@stages.pretrain: pretraining
  - /stage@stages.adapt: continued_pretraining
  - /stage@stages.instruct: sft
  - override /stage: null
"""
PLUGIN = """\
from ontogeny import hookimpl

@hookimpl
def ontogeny_config_paths():
    return ["pkg://three.conf"]
"""


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def live(place: Path, module_patch: pytest.MonkeyPatch) -> Iterator[Live]:
    """Return a function that runs the lifecycle in one store for all tests of this file."""
    conf = place / "plugins" / "three" / "conf"
    (conf / "lifecycle").mkdir(parents=True)
    (conf.parent / "__init__.py").write_text(PLUGIN)
    (conf / "__init__.py").write_text("")
    (conf / "lifecycle" / "three.yaml").write_text(THREE)
    module_patch.syspath_prepend(place / "plugins")
    module_patch.setenv("ONTOGENY_PLUGINS", "three")
    module_patch.setenv("ONTOGENY_HOME", str(place / "home"))
    registry.cache_clear()
    count = iter(range(1000))

    def live(*more: str) -> RunResult:
        return run(compose([*overrides(place), *more]), place / "runs" / str(next(count)))

    live()  # everything is in the store from here on
    yield live
    registry.cache_clear()


def states(result: RunResult) -> dict[str, str]:
    status = json.loads((result.folder / "status.json").read_text())
    found: dict[str, str] = status["stages"]
    return found


CACHED = dict.fromkeys(STAGES, "cached")


def test_run_again_nothing_is_computed(live: Live) -> None:
    assert states(live()) == CACHED


def test_a_checkpoint_knows_its_kind_and_its_parent(live: Live) -> None:
    result = live()
    lineage = read_lineage(result.stages["instruct"].checkpoint or Path())
    assert lineage["kind"] == "causal_lm"
    assert lineage["parent"] == str(result.stages["adapt"].checkpoint)


@pytest.mark.parametrize(
    "changed",
    [
        "+stages.adapt.logger.csv={_target_: lightning.pytorch.loggers.CSVLogger, save_dir: x}",
        "stages.adapt.trainer.log_every=1",
        "store.link=false",
        "sweep.metric=instruct/completion_perplexity/bits_per_byte",
    ],
)
def test_what_cannot_change_a_result_runs_nothing_again(changed: str, live: Live) -> None:
    assert states(live(changed)) == CACHED


@pytest.mark.parametrize(
    ("file", "again"),
    [("general", STAGES), ("domain", STAGES[1:]), ("questions", STAGES[2:])],
)
def test_one_byte_of_a_stages_data_runs_it_again_and_those_behind_it(
    file: str, again: tuple[str, ...], live: Live, place: Path
) -> None:
    path = place / f"{file}.jsonl"
    before = path.read_text()
    at = before.index("river", len(before) // 2)
    try:
        path.write_text(f"{before[:at]}v{before[at + 1 :]}")
        found = states(live())
    finally:
        path.write_text(before)
    assert found == {stage: "finished" if stage in again else "cached" for stage in STAGES}


def test_another_version_of_a_plugin_runs_those_again_that_used_it(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry().get("objective", "sft").plugin
    newer = registry().code_version(replace(plugin, version="99", editable=False))
    of = registry().code_version
    monkeypatch.setattr(
        registry(), "code_version", lambda each: newer if each is plugin else of(each)
    )
    assert states(live()) == {"pretrain": "cached", "adapt": "cached", "instruct": "finished"}


def test_in_an_editable_install_the_files_of_each_plugin_count_for_themselves() -> None:
    plugins = [registry().get("objective", name).plugin for name in ("sft", "clm")]
    versions = [registry().code_version(replace(plugin, editable=True)) for plugin in plugins]
    assert versions[0] != versions[1]


def test_a_flipped_byte_in_the_store_is_found_and_the_stage_computed_again(live: Live) -> None:
    checkpoint = live().stages["adapt"].checkpoint
    assert checkpoint is not None
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    found = states(live())
    assert found == {"pretrain": "cached", "adapt": "finished", "instruct": "cached"}


def test_copies_are_folders_of_their_own(live: Live) -> None:
    stage = live("store.link=false").folder / "stages" / "adapt"
    assert not stage.is_symlink()
    assert (stage / "checkpoint" / "model.safetensors").is_file()
    assert live().folder.joinpath("stages", "adapt").is_symlink()


def test_a_stage_can_start_from_a_checkpoint_and_what_is_before_is_left_out(
    live: Live, place: Path
) -> None:
    source = live().stages["adapt"].checkpoint
    assert source is not None
    shutil.copytree(source, place / "mine", dirs_exist_ok=True)
    result = live(f"stages.instruct.model.source={place}/mine")
    # By content it is the checkpoint that the stage had before.
    assert states(result) == {"pretrain": "left out", "adapt": "left out", "instruct": "cached"}
    assert result.left_out["adapt"] == f"instruct starts from {place}/mine"


def test_an_earlier_stage_can_be_named_and_counts_by_what_it_left(live: Live) -> None:
    named = live("stages.instruct.model.source=stage:pretrain")
    assert states(named)["instruct"] == "finished"
    lineage = read_lineage(named.stages["instruct"].checkpoint or Path())
    assert lineage["parent"] == str(named.stages["pretrain"].checkpoint)
    direct = live(f"stages.instruct.model.source={named.stages['pretrain'].checkpoint}")
    assert states(direct)["instruct"] == "cached"


def test_an_error_within_a_stage_has_its_full_key_and_the_stage_is_marked(
    live: Live, place: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^stages.adapt.data.max_length is 4096, longer than"):
        live("stages.adapt.data.max_length=4096")
    newest = max((place / "runs").iterdir(), key=lambda path: int(path.name))
    status = json.loads((newest / "status.json").read_text())
    assert status["stages"] == {"pretrain": "cached", "adapt": "failed"}


def test_a_run_can_stop_after_a_stage(live: Live) -> None:
    result = live("stop_after=adapt")
    assert states(result) == {"instruct": "left out", "pretrain": "cached", "adapt": "cached"}
