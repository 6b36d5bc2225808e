"""A small model that has learned a made-up language, so that what is taken from it shows."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ontogeny import compose, run
from ontogeny.lifecycle import RunResult
from ontogeny.testing.trial import store_at

QUICK = (
    "data.max_length=64",
    "data.batch_size=16",
    "trainer.accelerator=cpu",
    "precision=32-true",
)
TINY = (
    "model.config.hidden_size=64",
    "model.config.intermediate_size=128",
    "model.config.num_hidden_layers=2",
    "model.config.num_attention_heads=4",
    "model.config.num_key_value_heads=2",
    "model.config.max_position_embeddings=64",
)


def sentences(count: int, seed: int, words: int = 120) -> list[str]:
    """Return sentences in which each word decides which few can follow it."""
    draw = random.Random(0)
    syllables = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    names = sorted({"".join(draw.choice(syllables) for _ in range(2)) for _ in range(words)})
    follows = {name: draw.sample(names, 3) for name in names}
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        line = [draw.choice(names)]
        while len(line) < 10:
            line.append(draw.choice(follows[line[-1]]))
        texts.append(" ".join(line) + ".")
    return texts


def write(file: Path, texts: list[str]) -> Path:
    """Write texts as JSON lines."""
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


@dataclass
class World:
    """The checkpoint, its text, and a store that all tests share."""

    folder: Path
    checkpoint: Path
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> Path:
        return self.folder / "text.jsonl"

    def compress(self, *overrides: str, source: Path | None = None) -> RunResult:
        """Run the stage."""
        given = [f"model.source={source or self.checkpoint}", f"data.path={self.text}"]
        self.lines.clear()
        config = compose(["stage=compression", *QUICK, *given, *overrides])
        with store_at(self.folder / "store"):
            return run(config, self.folder / "run", self.lines.append)

    def measure(self, source: Path) -> float:
        """Return bits per byte of a checkpoint on the whole text."""
        given = [f"model.source={source}", f"data.path={self.text}"]
        config = compose(["stage=evaluation", QUICK[0], *QUICK[2:], *given])
        with store_at(self.folder / "store"):
            found = run(config, self.folder / "measured")
        return found.metrics["evaluation"]["perplexity"]["bits_per_byte"].value


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a model that was trained for some seconds."""
    folder = tmp_path_factory.mktemp("world")
    text = write(folder / "text.jsonl", sentences(1500, seed=1))
    config = compose(
        [
            *("stage=pretraining", *TINY, *QUICK, "preflight=off", "stage.sample_tokens=0"),
            *("tokenizer.vocab_size=420", "optimizer.lr=5e-3", "trainer.max_steps=150"),
            *(
                f"data.path={text}",
                "evaluator=[]",
                "trainer.compile=false",
                "trainer.progress=false",
            ),
        ]
    )
    with store_at(folder / "store"):
        result = run(config, folder / "base")
    assert result.checkpoint is not None
    return World(folder, result.checkpoint)


def value(result: RunResult, owner: str, name: str) -> float:
    """Return a metric of the stage."""
    return result.metrics["compression"][owner][name].value
