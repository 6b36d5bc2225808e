"""`lineage.json`: the chain of stages with config, data, metrics and versions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.core.chain import SMALL, finished, read, two_stages
from tests.core.conftest import Finished

from ontogeny.checkpoint import checkpoint_digest
from ontogeny.lineage import chain

Cli = Callable[..., Any]


def test_a_checkpoint_knows_the_whole_chain(chain_run: Finished) -> None:
    lineage = read(chain_run.checkpoint("second") / "lineage.json")
    first, second = chain(lineage)
    assert [first["stage"], second["stage"]] == ["first", "second"]
    for each in (first, second):
        assert each["metrics"]["perplexity"]["bits_per_byte"]["low"] > 0  # type: ignore[index]
        assert set(each["versions"]) >= {"ontogeny", "torch"}  # type: ignore[call-overload]
        assert each["components"]["head"] == "causal_lm (ontogeny 0.1.0)"  # type: ignore[index]
        assert each["steps"] == 2
        assert each["config"]["seed"] == 0  # type: ignore[index]
    digests = lineage["data_digests"]
    assert digests["domain"][0] == digests["general"][0] == first["data_digests"]["data"][0]  # type: ignore[index]


def test_what_a_stage_was_given_is_told_with_its_digest(chain_run: Finished) -> None:
    lineage = read(chain_run.checkpoint("second") / "lineage.json")
    given = lineage["inputs"]["model.source"]
    source = chain_run.checkpoint("first")
    assert given["digest"] == checkpoint_digest("model.source", str(source))
    assert given["stage_of_this_run"] == "first"
    assert given["key"] == lineage["ancestors"][0]["key"]


def test_a_checkpoint_of_another_run_brings_its_chain_along(
    cli: Cli, home: Path, text_file: Path, chain_run: Finished, tmp_path: Path
) -> None:
    moved = shutil.copytree(chain_run.checkpoint("second"), tmp_path / "moved")
    more = ["stage=continued_pretraining", *SMALL, "trainer.max_steps=1"]
    more += [f"data.path={text_file}", f"model.source={moved}", f"teacher.source={moved}"]
    folder, _ = finished(cli, more)
    lineage = read(folder / "stages/continued_pretraining/checkpoint/lineage.json")
    assert [each["stage"] for each in lineage["ancestors"]] == ["first", "second"]  # each once
    assert lineage["inputs"]["teacher.source"]["source"] == str(moved)
    assert lineage["inputs"]["model.source"]["stage_of_this_run"] is None
    page = (folder / "report.html").read_text()
    assert page.count('class="badge before"') == 2  # the stages before this run


STAGE = """
    import json
    import shutil
    from dataclasses import dataclass
    from pathlib import Path

    from ontogeny import Component, hookimpl

    @dataclass
    class Copying:
        times: int = 1

    @hookimpl
    def ontogeny_stages():
        return [Component("copying", config=Copying, implementation="copying_stage:CopyingStage")]

    @hookimpl
    def ontogeny_config_paths():
        return ["pkg://copying_conf"]
"""
IMPLEMENTATION = """
    import shutil
    from ontogeny.evaluator import Metric
    from ontogeny.stage import Stage, StageResult

    class CopyingStage(Stage):
        def __init__(self, config):
            self.config = config

        def run(self, context):
            made = context.folder / "checkpoint"
            shutil.copytree(context.config.model.source, made)
            for name in ("lineage.json", "README.md"):
                (made / name).unlink()
            return StageResult(made, {"copies": {"count": Metric(self.config.times, "1")}})
"""
COMPOSITION = """
    # @package _global_
    defaults:
      - /base/stage@_here_
      - /stage_options@stage: copying
      - /objective@objective: null
      - /head@head: causal_lm
      - /adapter@adapter: []
      - /evaluator@evaluator: []
      - _self_
"""


def test_a_stage_that_writes_no_lineage_gets_one(
    cli: Cli,
    home: Path,
    local_plugin: Callable[..., None],
    chain_run: Finished,
) -> None:
    files = {"copying_stage.py": IMPLEMENTATION, "copying_conf/__init__.py": ""}
    local_plugin("copying", STAGE, **files, **{"copying_conf/stage/copying.yaml": COMPOSITION})
    source = chain_run.checkpoint("second")
    folder, _ = finished(cli, ["stage=copying", f"model.source={source}", "stage.times=3"])
    checkpoint = folder / "stages/copying/checkpoint"
    lineage = read(checkpoint / "lineage.json")
    assert [each["stage"] for each in lineage["ancestors"]] == ["first", "second"]
    assert lineage["metrics"] == {
        "copies": {"count": {"value": 3.0, "unit": "1", "low": None, "high": None}}
    }
    assert "# copying" in (checkpoint / "README.md").read_text()


def test_another_way_to_run_is_no_part_of_the_digest(
    cli: Cli, home: Path, text_file: Path, monkeypatch: Any
) -> None:
    digests = set()
    for name in ("here", "there"):
        monkeypatch.setenv("ONTOGENY_HOME", str(home / name))
        folder, _ = finished(
            cli, two_stages(text_file, f"stages.first.trainer.log_every={len(name)}")
        )
        digests.add(checkpoint_digest("model.source", str(folder / "stages/second/checkpoint")))
    assert len(digests) == 1
