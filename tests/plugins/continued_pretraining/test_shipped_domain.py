"""The claims of docs/adaptation.md, from the demo's model on the texts that ship."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from ontogeny import compose, run

EXAMPLE = Path(__file__).parents[3] / "examples" / "adaptation" / "replay.py"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("home")
def test_the_shipped_domain_is_learned_and_a_tenth_of_replay_halves_what_is_forgotten() -> None:
    demo = run(compose(["recipe=demo", "stage.sample_tokens=0"]), Path("demo"), lambda _: None)
    runpy.run_path(str(EXAMPLE))["main"](str(demo.checkpoint))  # asserts both, over three seeds
