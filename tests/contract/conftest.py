"""Plugins for one test: modules of `plugins/`, or the text of a new one."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from ontogeny.plugins import registry

Use = Callable[..., None]
Write = Callable[..., str]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Let modules be the plugins of this process, beside those that are installed."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "plugins")

    def use(*modules: str) -> None:
        monkeypatch.setenv("ONTOGENY_PLUGINS", ",".join(modules))
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
