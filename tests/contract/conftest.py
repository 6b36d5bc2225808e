"""Plugins for one test: modules of `contract_plugins/`, or the text of a new one."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from ontogeny.plugins import registry

Use = Callable[..., None]
Write = Callable[..., str]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: these models are too small to gain from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Let modules be plugins of this process: those of `contract_plugins`, by their short names."""
    monkeypatch.syspath_prepend(Path(__file__).parent)

    def use(*modules: str) -> None:
        own = Path(__file__).parent / "contract_plugins"
        full = [f"{own.name}.{each}" if (own / f"{each}.py").exists() else each for each in modules]
        monkeypatch.setenv("ONTOGENY_PLUGINS", ",".join(full))
        registry.cache_clear()

    yield use
    registry.cache_clear()


@pytest.fixture
def write(use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a package that is a plugin, with more files beside its entry module, and use it."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def write(name: str, entry: str, **files: str) -> str:
        for file, text in {f"{name}/__init__.py": entry, **files}.items():
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        written.append(name)
        use(*written)
        return name

    yield write
    for module in [each for each in sys.modules if each.partition(".")[0] in written]:
        del sys.modules[module]
