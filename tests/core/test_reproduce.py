"""`ontogeny reproduce-run`: the commands make the same checkpoint again in an empty store."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.core.chain import SMALL, finished, two_stages

from ontogeny import compose, run
from ontogeny.checkpoint import checkpoint_digest
from ontogeny.errors import CheckpointError
from ontogeny.reproduce import differences, reproduce, script

Cli = Callable[..., Any]


def carry_out(lines: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a shell does with the lines of a script."""
    for line in lines:
        if line.startswith("#"):
            continue
        cd, folder, together, *words = shlex.split(line)
        assert (cd, together, words[0]) == ("cd", "&&", "ontogeny")
        monkeypatch.chdir(folder)
        ended = cli(*words[1:])
        assert ended.code == 0, ended.err


def digest(checkpoint: Path) -> str:
    return checkpoint_digest("model.source", str(checkpoint))


def place_of(lines: list[str]) -> Path:
    return Path(lines[0].partition(", as ")[2])


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_stage_of_a_lifecycle_is_made_again_by_one_command(
    stage: str, cli: Cli, home: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished(cli, two_stages(text_file))
    made = folder / "stages" / stage / "checkpoint"
    lines = cli("reproduce-run", str(made)).out.splitlines()
    assert digest(made) in lines[1]
    assert len(lines) == 3  # two comments and a command
    assert ("~stages.second" in lines[2]) == (stage == "first")  # what comes later is left out
    monkeypatch.setenv("ONTOGENY_HOME", str(home / "empty"))
    carry_out(lines, cli, monkeypatch)
    again = place_of(lines)
    assert again.resolve() != made.resolve()
    assert digest(again) == digest(made)
    assert (again.parent.parent / "second").exists() == (stage == "second")


def test_runs_that_went_on_from_each_other_are_all_made_again(
    cli: Cli, home: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished(cli, two_stages(text_file, "report.matrix=false"))
    (tmp_path / "mo re.jsonl").write_text(text_file.read_text())  # a name that has to be quoted
    more = ["stage=continued_pretraining", *SMALL, "trainer.max_steps=1", "seed=3"]
    more += [f"data.path='{tmp_path / 'mo re.jsonl'}'"]
    source = folder / "stages/second/checkpoint"
    third, _ = finished(cli, [*more, f"model.source={source}"])
    made = third / "stages/continued_pretraining/checkpoint"
    lines = cli("reproduce-run", str(made)).out.splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert len(commands) == 2
    assert str(source) not in commands[1]  # but where the first command has put it
    monkeypatch.setenv("ONTOGENY_HOME", str(home / "empty"))
    carry_out(lines, cli, monkeypatch)
    assert digest(place_of(lines)) == digest(made)


def test_a_checkpoint_of_others_cannot_be_made_again(cli: Cli, tmp_path: Path) -> None:
    ended = cli("reproduce-run", str(tmp_path))
    assert ended.code == 2
    assert ended.err.startswith(f"ontogeny: {tmp_path} has no lineage.json, so it is not known")
    assert cli("reproduce-run").err == "ontogeny: usage: ontogeny reproduce-run CHECKPOINT\n"


def test_a_lineage_of_an_older_version_says_so() -> None:
    with pytest.raises(CheckpointError, match="does not say which command ran the stage sft"):
        script({"stage": "sft", "key": "abc"})


def test_what_the_overrides_do_not_say_is_told(
    home: Path, tiny_overrides: list[str], text_file: Path
) -> None:
    config = compose([*tiny_overrides, f"data.path={text_file}", "preflight=off"])
    (stage,) = config.stages.values()
    stage.seed, stage.data.max_length = 5, 16  # in Python, behind the back of the overrides
    made = run(config, home / "run").checkpoint
    assert made is not None
    notes = [line for line in reproduce(str(made)).splitlines() if line.startswith("# note: ")]
    assert notes == [
        "# note: data.max_length was 16, and the command composes 32: add data.max_length=16",
        "# note: seed was 5, and the command composes 0: add seed=5",
    ]


def test_other_versions_and_lost_inputs_are_told(tmp_path: Path) -> None:
    gone = {"source": str(tmp_path / "gone"), "digest": "d", "key": None}
    versions = {"ontogeny": "0.0.1"}
    lineage = {"stage": "sft", "versions": versions, "inputs": {"model.source": gone}}
    told = differences(json.loads(json.dumps(lineage)))
    assert told[0].startswith("ontogeny was 0.0.1 and is ")
    assert told[1] == f"model.source of sft was {tmp_path / 'gone'}: it is gone"
