"""The Python API: what it gives is what the command line gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ontogeny
from ontogeny import ConfigError, PluginError, compose, run


def test_the_public_names_are_all_there() -> None:
    assert all(hasattr(ontogeny, name) for name in ontogeny.__all__)
    assert ontogeny.__version__ == "0.1.0"


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ontogeny' has no attribute 'nothing'"):
        _ = ontogeny.nothing


def test_composing_refuses_what_the_command_line_refuses() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'trainer.max_steps'"):
        compose(["trainer.max_step=1"])


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_libraries_are_told_how_to_wait_before_they_are_imported(given: str | None) -> None:
    program = (
        "import os, sys; from ontogeny import run; "
        "print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {name: value for name, value in os.environ.items() if "OMP" not in name}
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", given or "PASSIVE"]


def test_composing_with_a_broken_plugin_is_an_error(local_plugin: Callable[..., None]) -> None:
    local_plugin("broken", "1 / 0")
    with pytest.raises(PluginError, match="plugin 'broken'"):
        compose([])


def test_a_run_gives_its_metrics_its_checkpoint_and_its_lines(
    home: Path, tiny_overrides: list[str], text_file: Path
) -> None:
    lines: list[str] = []
    config = compose([*tiny_overrides, f"data.path={text_file}"])
    result = run(config, home / "run", lines.append)
    written = json.loads((home / "run" / "metrics.json").read_text())
    bits = result.metrics["pretraining"]["perplexity"]["bits_per_byte"]
    assert written["pretraining"]["perplexity"]["bits_per_byte"] == bits.as_dict()
    assert result.checkpoint is not None
    assert (result.checkpoint / "model.safetensors").exists()
    assert result.complete
    assert json.loads((home / "run" / "status.json").read_text())["state"] == "finished"
    assert any(line.startswith("pretraining: data: ") for line in lines)


def test_a_run_without_a_folder_makes_one_below_outputs(
    home: Path, tiny_overrides: list[str], text_file: Path
) -> None:
    result = run(compose([*tiny_overrides, f"data.path={text_file}"]))
    assert result.folder.parts[0] == "outputs"
    assert (result.folder / "stages" / "pretraining" / "checkpoint").is_dir()


def test_a_run_that_fails_leaves_its_reason(home: Path, tiny_overrides: list[str]) -> None:
    with pytest.raises(ontogeny.DataError, match=r"absent.txt does not exist"):
        run(compose([*tiny_overrides, "data.path=absent.txt"]), home / "run")
    status = json.loads((home / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 2)
    assert "absent.txt does not exist" in status["reason"]
