"""Whether the body of the model is compiled."""

from __future__ import annotations

import shutil

import pytest

from ontogeny import compilation
from ontogeny.compilation import WORTHWHILE_FLOPS, decide_compilation, has_compiler
from ontogeny.errors import ConfigError


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "has_compiler", lambda: True)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "has_compiler", lambda: False)


@pytest.mark.usefixtures("compiler")
def test_a_long_run_is_compiled_and_a_short_one_is_not() -> None:
    parameters = 1_000_000
    enough = int(WORTHWHILE_FLOPS / (6 * parameters)) + 1  # 6 N D operations
    assert decide_compilation("auto", parameters, enough) == (True, "a run of 5.0e+13 operations")
    choice, reason = decide_compilation("auto", parameters, enough // 2)
    assert not choice
    assert reason == "too short a run to earn it back (2.5e+13 operations)"


@pytest.mark.usefixtures("compiler")
def test_what_the_user_says_is_done() -> None:
    assert decide_compilation("true", 1, 1) == (True, "trainer.compile=true")
    assert decide_compilation("false", 10**9, 10**9) == (False, "trainer.compile=false")


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_auto_says_so_and_goes_on() -> None:
    choice, reason = decide_compilation("auto", 10**9, 10**9)
    assert not choice
    assert "no C++ compiler" in reason


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_true_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"trainer.compile is true but no C\+\+ compiler"):
        decide_compilation("true", 1, 1)


def test_a_compiler_is_one_of_the_usual_names_or_the_environment_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/g++" if name == "g++" else None)
    assert has_compiler()
    monkeypatch.setattr(shutil, "which", lambda name: "/opt/cc" if name == "/opt/cc" else None)
    assert not has_compiler()
    monkeypatch.setenv("CXX", "/opt/cc")
    assert has_compiler()
