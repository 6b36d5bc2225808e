"""What tests of every part share. Nothing heavy is imported here: some tests look at what is."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

# Read when torch is first imported: threads that wait actively slow down whatever runs beside.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import pytest

SENTENCE = "the river stone of a wind was it light and dark house on road old young came saw"


@dataclass(frozen=True)
class Ended:
    """How a command line ended that was carried out in this process."""

    code: int
    out: str
    err: str


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a store of its own; the current folder is another empty one."""
    folder = tmp_path / "home"
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("ONTOGENY_HOME", str(folder))
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.fixture(scope="session")
def tiny_overrides() -> list[str]:
    """Return the overrides of a pre-training run of two steps that takes a second."""
    return [
        "model.config.hidden_size=32",
        "model.config.intermediate_size=64",
        "model.config.num_hidden_layers=1",
        "model.config.num_attention_heads=2",
        "model.config.num_key_value_heads=2",
        "model.config.max_position_embeddings=64",
        "data.max_length=32",
        "data.batch_size=2",
        "trainer.max_steps=2",
        "trainer.accelerator=cpu",
        "precision=32-true",
        "tokenizer.vocab_size=300",
        "stage.sample_tokens=0",
    ]


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """Return a JSON Lines file of 40 rows of text."""
    file = tmp_path / "text.jsonl"
    words = SENTENCE.split()
    texts = (" ".join(words[(row * step) % len(words)] for step in range(12)) for row in range(40))
    rows = ({"text": f"{number}: {text}"} for number, text in enumerate(texts))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ended]]:
    """Return a function that carries out a command line in this process.

    Hydra sets the handlers of the root logger; they are put back and closed afterwards.
    """
    from ontogeny.cli import command

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        code = command(arguments)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    yield run
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def tiny_run(
    cli: Callable[..., Ended], home: Path, tiny_overrides: list[str], text_file: Path
) -> Callable[..., Ended]:
    """Return a function that pre-trains a tiny model on `text_file` with more overrides."""

    def run(*overrides: str) -> Ended:
        paths = (
            []
            if any("data." in item and "path=" in item for item in overrides)
            else [f"data.path={text_file}"]
        )
        return cli(*tiny_overrides, *paths, *overrides)

    return run


@pytest.fixture
def local_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that writes a module and makes it a plugin of this process, beside others.

    More files are given by their names, as in `local_plugin("mine", TEXT, **{"x.yaml": "a: 1"})`.
    """
    from ontogeny.plugins import registry

    folder = tmp_path / "plugins"
    monkeypatch.syspath_prepend(folder)
    written: list[str] = []

    def write(name: str, text: str, **files: str) -> None:
        for file, content in {f"{name}.py": text, **files}.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(dedent(content))
        written.append(name)
        monkeypatch.setenv("ONTOGENY_PLUGINS", ",".join(written))
        registry.cache_clear()

    yield write
    registry.cache_clear()
    for module in [each for each in sys.modules if each.partition(".")[0] in written]:
        del sys.modules[module]
