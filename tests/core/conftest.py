"""A finished lifecycle of two tiny stages, shared by the tests that only look at it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import SENTENCE
from tests.core.chain import two_stages


@dataclass(frozen=True)
class Finished:
    """A run that has ended."""

    folder: Path
    home: Path
    text: Path
    overrides: list[str]

    def checkpoint(self, stage: str) -> Path:
        """Return the checkpoint of a stage."""
        return self.folder / "stages" / stage / "checkpoint"


@pytest.fixture(scope="session")
def chain_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return a run of `first` and `second`, with evaluations on the way."""
    from ontogeny import compose, run

    place = tmp_path_factory.mktemp("chain")
    text, words = place / "text.jsonl", SENTENCE.split()
    rows = (" ".join(words[(row * step) % len(words)] for step in range(12)) for row in range(40))
    text.write_text("".join(json.dumps({"text": f"{n}: {t}"}) + "\n" for n, t in enumerate(rows)))
    overrides = two_stages(text, "stages.second.trainer.evaluate_every=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONTOGENY_HOME", str(place / "home"))
        patch.chdir(place)
        result = run(compose(overrides), place / "run")
    return Finished(result.folder, place / "home", text, overrides)
