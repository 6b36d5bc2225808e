"""A lifecycle of two tiny stages, composed on the command line, for tests of what runs leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TINY = (
    "model.config.hidden_size=32",
    "model.config.intermediate_size=64",
    "model.config.num_hidden_layers=1",
    "model.config.num_attention_heads=2",
    "model.config.num_key_value_heads=2",
    "model.config.max_position_embeddings=64",
    "tokenizer.vocab_size=300",
)
SMALL = (
    "data.max_length=32",
    "data.batch_size=2",
    "trainer.accelerator=cpu",
    "precision=32-true",
    "preflight=off",
    "stage.sample_tokens=3",
    "stage.prompts=[the river,it was]",
)


def two_stages(text: Path, *overrides: str, steps: int = 2) -> list[str]:
    """Return the overrides of `first`, a pre-training, and `second`, which goes on from it."""
    both = [*SMALL, f"trainer.max_steps={steps}"]
    first = [f"stages.first.{item}" for item in (*TINY, *both, f"data.path={text}")]
    sources = [
        *(f"data.sources.domain.path={text}", "data.sources.domain.weight=0.75"),
        *(f"data.sources.general.path={text}", "data.sources.general.weight=0.25"),
    ]
    second = [f"stages.second.{item}" for item in (*both, *sources)]
    stages = ["+stage@stages.first=pretraining", "+stage@stages.second=continued_pretraining"]
    return ["~stage", *stages, *first, *second, *overrides]


def run_folder(out: str) -> Path:
    """Return the folder that the last line of a run names."""
    return Path(out.splitlines()[-1].removeprefix("run: "))


def read(file: Path) -> dict[str, Any]:
    """Return a JSON object."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def finished(cli: Callable[..., Any], overrides: Sequence[str]) -> tuple[Path, str]:
    """Carry out a command that must end well; return its run's folder and what it printed."""
    ended = cli(*overrides)
    assert ended.code == 0, ended.err
    return run_folder(ended.out), ended.out
