"""Whether the body of the model is compiled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch._dynamo
from transformers import LlamaConfig, LlamaForCausalLM

from ontogeny import compilation
from ontogeny.compilation import (
    WORTHWHILE_FLOPS,
    compile_body,
    decide_compilation,
    has_compiler,
)
from ontogeny.errors import ConfigError

SHAPES = [(2, 8), (3, 8), (3, 13), (5, 21)]


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


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
@pytest.mark.parametrize(("dynamic", "graphs"), [(True, 1), (False, len(SHAPES))])
def test_batches_of_all_shapes_share_a_kernel_where_it_is_made_for_that(
    dynamic: bool, graphs: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).eval()
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    ids = [torch.randint(0, 64, shape) for shape in SHAPES]
    plain = [model(each).logits for each in ids]
    compile_body(model, tmp_path, dynamic=dynamic)
    for each, expected in zip(ids, plain, strict=True):
        torch.testing.assert_close(model(each).logits, expected, atol=1e-5, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
