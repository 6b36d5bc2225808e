"""Continued pre-training: a domain is learned, and what that costs in general text is told."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ontogeny import ConfigError, compose, run
from ontogeny.digest import sha256_file
from ontogeny.lifecycle import RunResult
from ontogeny.testing import CrashAt
from ontogeny.testing.resume import Crash
from ontogeny.testing.trial import store_at

CRASH = f"+callbacks.crash._target_={CrashAt.__module__}.CrashAt"
STAGE = "continued_pretraining"
OLD = "river stone wind light dark house road young came saw walked under"
NEW = "protein binds kinase domain phosphate receptor ligand membrane enzyme cell"
BASE = [
    "precision=32-true",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "stage.sample_tokens=0",
    "data.max_length=32",
    "data.batch_size=4",
    "evaluator.perplexity.resamples=20",
]


def sentences(text: str, count: int, seed: int) -> list[str]:
    """Return sentences in which each word has two that may follow it."""
    words, draw = text.split(), random.Random(seed)
    written = []
    for number in range(count):
        place, chosen = number % len(words), []
        for _ in range(14):
            chosen.append(words[place])
            place = (place + draw.choice((1, 3))) % len(words)
        written.append(" ".join(chosen))
    return written


@dataclass
class Adaptation:
    """Runs of the stage that start from one model, each in a folder of its own."""

    folder: Path
    base: Path
    lines: list[str] = field(default_factory=list)

    def overrides(self, *more: str, replay: float = 0.0) -> list[str]:
        return [
            f"stage={STAGE}",
            f"model.source={self.base}",
            f"data.sources.domain.path={self.folder / 'new.jsonl'}",
            f"data.sources.domain.weight={1 - replay}",
            f"data.sources.general.path={self.folder / 'old.jsonl'}",
            f"data.sources.general.weight={replay}",
            *BASE,
            *more,
        ]

    def run(self, *more: str, replay: float = 0.0, store: str = "store") -> RunResult:
        with store_at(self.folder / store):
            config = compose(self.overrides(*more, replay=replay))
            return run(config, self.folder / f"run-{store}", self.lines.append)


def log(result: RunResult) -> list[dict[str, str]]:
    with (result.folder / "stages" / STAGE / "logs/metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


def weights(result: RunResult) -> str:
    assert result.checkpoint is not None
    return sha256_file(result.checkpoint / "model.safetensors")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("adaptation")
    for name, words in (("old", OLD), ("new", NEW)):
        rows = [json.dumps({"text": text}) for text in sentences(words, 150, seed=1)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    overrides = [item for item in tiny_overrides if "max_steps" not in item]
    more = ["trainer.max_steps=60", "optimizer.lr=1e-2", "tokenizer.vocab_size=320"]
    with store_at(folder / "store"):
        config = compose(
            [*overrides, *more, f"data.path={folder / 'old.jsonl'}", "data.batch_size=4"]
        )
        checkpoint = run(config, folder / "run-base", lambda _: None).checkpoint
    assert checkpoint is not None
    return checkpoint


@pytest.fixture
def adaptation(base: Path, tmp_path: Path) -> Adaptation:
    for name in ("old", "new"):
        source = base.parents[3] / f"{name}.jsonl"
        (tmp_path / f"{name}.jsonl").write_bytes(source.read_bytes())
    return Adaptation(tmp_path, base)


def test_the_domain_is_learned_and_what_is_forgotten_is_told(adaptation: Adaptation) -> None:
    result = adaptation.run("trainer.max_steps=30", "optimizer.lr=5e-3")
    changes = {name: each.value for name, each in result.metrics[STAGE]["forgetting"].items()}
    before, after = changes["bits_per_byte_before/domain"], changes["bits_per_byte_after/domain"]
    assert changes["gain/domain"] == 1 - after / before
    assert changes["gain/domain"] > 0.15
    before, after = changes["bits_per_byte_before/general"], changes["bits_per_byte_after/general"]
    assert changes["forgetting"] == after / before - 1
    assert changes["forgetting"] > 0
    measured = result.metrics[STAGE]["perplexity"]["bits_per_byte/general"].value
    assert after == measured


def test_replay_keeps_what_the_model_knew(adaptation: Adaptation) -> None:
    options = ["trainer.max_steps=30", "optimizer.lr=5e-3"]
    without, replayed = (
        adaptation.run(*options, replay=share).metrics[STAGE]["forgetting"]["forgetting"].value
        for share in (0.0, 0.2)
    )
    assert replayed < without / 2


def test_a_source_of_weight_zero_is_measured_and_never_trained_on(adaptation: Adaptation) -> None:
    result = adaptation.run("trainer.max_steps=2")
    assert result.checkpoint is not None
    lineage = json.loads((result.checkpoint / "lineage.json").read_text())
    assert {source["name"]: source["share"] for source in lineage["data"]} == {
        "domain": 1.0,
        "general": 0.0,
    }


def test_the_model_is_measured_before_the_first_step_and_every_n(adaptation: Adaptation) -> None:
    result = adaptation.run("trainer.max_steps=4", "trainer.evaluate_every=2")
    column = "evaluation/perplexity/bits_per_byte/general"
    values = {row["step"]: float(row[column]) for row in log(result) if row.get(column)}
    assert set(values) == {"0", "2", "4"}
    before = result.metrics[STAGE]["forgetting"]["bits_per_byte_before/general"].value
    assert values["0"] == pytest.approx(before, rel=1e-12)


def test_rows_of_a_source_can_be_held_out_in_a_file_of_their_own(adaptation: Adaptation) -> None:
    own = adaptation.folder / "own.jsonl"
    own.write_text('{"text": "enzyme cell"}\n')
    result = adaptation.run("trainer.max_steps=1", f"data.sources.domain.validation={own}")
    lineage = json.loads((result.folder / f"stages/{STAGE}/checkpoint/lineage.json").read_text())
    held_out = {source["name"]: source["held_out"] for source in lineage["data"]}
    assert held_out["domain"] == 0
    assert held_out["general"] > 0


def test_past_its_budget_the_stage_ends(adaptation: Adaptation) -> None:
    options = ["trainer.max_steps=40", "optimizer.lr=1e-2", "trainer.evaluate_every=5"]
    result = adaptation.run(*options, "forgetting.budget=0.02")
    assert result.complete
    assert result.stages[STAGE].steps < 40
    assert any(
        "forgetting: general bits_per_byte has risen by" in line for line in adaptation.lines
    )
    assert any(
        f"the stage ends at step {result.stages[STAGE].steps}" in s for s in adaptation.lines
    )


def test_a_budget_is_watched_though_no_evaluation_is_asked_for(adaptation: Adaptation) -> None:
    result = adaptation.run("trainer.max_steps=40", "optimizer.lr=1e-2", "forgetting.budget=0.02")
    assert result.stages[STAGE].steps < 40


def test_past_its_budget_more_is_replayed_where_that_is_chosen(adaptation: Adaptation) -> None:
    options = ["trainer.max_steps=30", "optimizer.lr=1e-2", "trainer.evaluate_every=5"]
    budget = ["forgetting.budget=0.02", "forgetting.action=replay", "forgetting.replay_step=0.1"]
    result = adaptation.run(*options, *budget, "forgetting.replay_limit=0.9", replay=0.01)
    assert result.stages[STAGE].steps == 30
    lineage = json.loads((result.folder / f"stages/{STAGE}/checkpoint/lineage.json").read_text())
    shares = {source["name"]: source["share"] for source in lineage["data"]}
    assert shares["general"] > 0.1
    told = [line for line in adaptation.lines if "shares of tokens from here" in line]
    assert "general 11.0%" in told[0]
    stopped = adaptation.run(*options, "forgetting.budget=0.02", replay=0.01)
    name = "bits_per_byte_after/general"
    kept = result.metrics[STAGE]["forgetting"][name].value
    assert kept < stopped.metrics[STAGE]["forgetting"][name].value


@pytest.mark.parametrize("action", ["stop", "replay"])
def test_a_run_that_was_cut_off_decides_the_same(action: str, adaptation: Adaptation) -> None:
    options = ["trainer.max_steps=20", "optimizer.lr=1e-3", "trainer.evaluate_every=2"]
    options += [
        "forgetting.budget=0.02",
        f"forgetting.action={action}",
        "trainer.save_every_steps=2",
    ]
    whole = adaptation.run(*options, replay=0.01, store="whole")
    steps = whole.stages[STAGE].steps
    crash = [CRASH, f"+callbacks.crash.step={min(17, steps - 1)}"]
    with pytest.raises(Crash):
        adaptation.run(*options, *crash, replay=0.01, store="cut")
    again = adaptation.run(*options, "resume=must", replay=0.01, store="cut")
    assert weights(again) == weights(whole)
    assert again.stages[STAGE].steps == steps
    name = "bits_per_byte_before/general"
    one, two = (each.metrics[STAGE]["forgetting"][name].value for each in (whole, again))
    assert one == two


def test_embeddings_have_a_learning_rate_of_their_own(adaptation: Adaptation) -> None:
    result = adaptation.run("trainer.max_steps=2", "optimizer.embedding_lr=0")
    assert result.checkpoint is not None
    before = load_file(adaptation.base / "model.safetensors")
    after = load_file(result.checkpoint / "model.safetensors")
    moved = {name for name in before if not before[name].equal(after[name])}
    assert "model.embed_tokens.weight" not in moved
    assert "model.layers.0.mlp.up_proj.weight" in moved


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(adaptation: Adaptation) -> None:
    overrides = [item for item in adaptation.overrides() if not item.startswith("model.")]
    with pytest.raises(ConfigError, match=r"model.source is not set; continued_pretraining"):
        run(compose(overrides), adaptation.folder / "run", lambda _: None)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["forgetting.source=old"], "forgetting.source is 'old'; expected one of domain, general"),
        (["forgetting.budget=0"], "forgetting.budget is 0.0; expected more than 0"),
        (["forgetting.action=halt"], "forgetting.action is 'halt'; expected one of stop, replay"),
        (["forgetting.replay_limit=1"], "forgetting.replay_limit is 1.0; expected a share"),
        (
            ["forgetting.budget=0.1", "forgetting.action=replay", "data.workers=2"],
            "data.workers is 2, but forgetting.action=replay changes the mixture",
        ),
        (["forgetting.budget=0.1", "evaluator=[]"], "no evaluator measures bits_per_byte"),
        (["optimizer.embedding_lr=fast"], "optimizer.embedding_lr is 'fast'"),
    ],
)
def test_what_cannot_be_is_refused(
    overrides: list[str], words: str, adaptation: Adaptation
) -> None:
    if "evaluator=[]" in overrides:
        adaptation.overrides = lambda *more, replay=0.0: [  # type: ignore[method-assign]
            item
            for item in Adaptation.overrides(adaptation, *more, replay=replay)
            if "perplexity" not in item
        ]
    with pytest.raises(ConfigError) as caught:
        adaptation.run("trainer.max_steps=2", *overrides)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.validation.path={new}"], "data.validation.path is for all sources together, data."),
        (
            ["data.validation.share=0", "data.sources.domain.validation={new}"],
            "rows to hold out in",
        ),
        (["data.sources.wiki.path={new}"], "no source is the general text that must not be forgo"),
    ],
)
def test_where_nothing_tells_what_is_forgotten_the_reason_is_told(
    overrides: list[str], words: str, adaptation: Adaptation
) -> None:
    new = adaptation.folder / "new.jsonl"
    given = adaptation.overrides(
        "trainer.max_steps=1", *(each.format(new=new) for each in overrides)
    )
    if "wiki" in given[-1]:
        given = [each.replace("sources.general", "sources.wiki") for each in given]
    result = run(compose(given), adaptation.folder / "run", adaptation.lines.append)
    assert "forgetting" not in result.metrics[STAGE].get("forgetting", {})
    told = [line for line in adaptation.lines if "forgetting: not measured: " in line]
    assert len(told) == 1
    assert words in told[0]
    with pytest.raises(ConfigError, match=r"forgetting\.budget is set, but no ") as caught:
        run(compose([*given, "forgetting.budget=0.1"]), adaptation.folder / "run", lambda _: None)
    assert words in str(caught.value)


def test_a_budget_needs_text_to_watch(adaptation: Adaptation) -> None:
    overrides = [item for item in adaptation.overrides() if "general" not in item]
    overrides = [*overrides, "trainer.max_steps=2", "forgetting.budget=0.1"]
    with pytest.raises(ConfigError, match=r"name it in data.sources.general.path \(its weight"):
        run(compose(overrides), adaptation.folder / "run", lambda _: None)
