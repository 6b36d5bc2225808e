"""Two made-up languages without a common word, and a tiny model that has learned one of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ontogeny import compose, run
from ontogeny.testing.trial import store_at

TOPICS, WORDS, SENTENCE = 4, 160, 8  # topics, words of a language, words of a sentence
QUICK = (
    "data.max_length=64",
    "data.batch_size=16",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "precision=32-true",
)
TINY = (
    "model.config.hidden_size=64",
    "model.config.intermediate_size=128",
    "model.config.num_hidden_layers=2",
    "model.config.num_attention_heads=4",
    "model.config.num_key_value_heads=4",
    "model.config.max_position_embeddings=64",
)


class Language:
    """Sentences of eight words, all of one topic; a topic has forty words, equally likely."""

    def __init__(self, consonants: str, vowels: str, seed: int) -> None:
        draw = random.Random(seed)
        syllables = [first + second for first in consonants for second in vowels]
        words: set[str] = set()
        while len(words) < WORDS:
            words.add("".join(draw.choice(syllables) for _ in range(draw.choice((2, 3)))))
        shuffled = sorted(words)
        draw.shuffle(shuffled)
        size = WORDS // TOPICS
        self.topics = [shuffled[topic * size : (topic + 1) * size] for topic in range(TOPICS)]

    def rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Return sentences with the number of their topic."""
        draw = random.Random(seed)
        topics = [draw.randrange(TOPICS) for _ in range(count)]
        return [
            {
                "text": " ".join(draw.choice(self.topics[topic]) for _ in range(SENTENCE)),
                "label": topic,
            }
            for topic in topics
        ]


KNOWN = Language("bdgkm", "aeo", seed=1)
FOREIGN = Language("fnprstv", "iuy", seed=2)
LANGUAGES = {"known": KNOWN, "foreign": FOREIGN}


def write(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@dataclass(frozen=True)
class World:
    """A folder with texts, and the checkpoint of a model that knows one of the languages."""

    folder: Path
    checkpoint: Path

    @property
    def general(self) -> Path:
        return self.folder / "general.jsonl"

    def text(self, name: str, count: int = 800, seed: int = 20) -> Path:
        """Return a file of fresh sentences of a language."""
        file = self.folder / f"{name}-{count}-{seed}.jsonl"
        return file if file.exists() else write(file, LANGUAGES[name].rows(count, seed))

    def overrides(self, domain: Path) -> list[str]:
        """Return the overrides of a quick diagnosis."""
        return [
            *("stage=diagnosis", "adapter=[]", *QUICK),
            f"model.source={self.checkpoint}",
            f"data.domain.path={domain}",
            f"data.general.path={self.general}",
        ]


def build_world(folder: Path, steps: int) -> World:
    """Train a tiny model on the known language for so many steps."""
    text = write(folder / "general.jsonl", KNOWN.rows(2000, seed=10))
    config = compose(
        [
            *("stage=pretraining", *TINY, *QUICK, "preflight=off", "stage.sample_tokens=0"),
            *("tokenizer.vocab_size=512", "optimizer.lr=3e-3", f"trainer.max_steps={steps}"),
            *(f"data.path={text}", "evaluator=[]"),
        ]
    )
    with store_at(folder / "store"):
        result = run(config, folder / "base")
    assert result.checkpoint is not None
    return World(folder, result.checkpoint)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a model that was trained for a few seconds."""
    return build_world(tmp_path_factory.mktemp("world"), steps=120)


Diagnose = Callable[..., dict[str, Any]]


@pytest.fixture
def diagnose(world: World, home: Path, monkeypatch: pytest.MonkeyPatch) -> Diagnose:
    """Return a function that runs a diagnosis of a text and returns its advice.json.

    All tests share a store, so that the same diagnosis is made once.
    """
    monkeypatch.setenv("ONTOGENY_HOME", str(world.folder / "store"))

    def diagnosed(domain: Path, *overrides: str, lines: list[str] | None = None) -> dict[str, Any]:
        config = compose([*world.overrides(domain), *overrides])
        result = run(config, home.parent / "run", ([] if lines is None else lines).append)
        advice = result.folder / "stages" / "diagnosis" / "advice.json"
        return json.loads(advice.read_text())

    return diagnosed
