"""The stage end to end: its advice, its words, its errors, and going on after a crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Ended
from tests.plugins.diagnosis.conftest import KNOWN, Diagnose, World, write
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

from ontogeny import CheckpointError, ConfigError, DataError, compose, run
from ontogeny.testing.resume import Crash
from ontogeny_plugins.diagnosis import Diagnosis

PROBE = ("adapter=[lora]", "stage.probe=true", "stage.probe_steps=12", "optimizer.lr=1e-2")


def test_a_foreign_language_calls_for_the_specialised_path(
    world: World, diagnose: Diagnose
) -> None:
    advice = diagnose(world.text("foreign"))
    assert advice["path"] == "specialised"
    assert advice["overrides"][0] == "stage=continued_pretraining"
    assert advice["evidence"]["bits_per_byte_gap"]["low"] > 3
    assert advice["evidence"]["common_words"] == {
        "domain_and_general": 0.0,
        "general_and_itself": 1.0,
        "task_and_domain": None,
        "task_and_general": None,
    }


def test_fresh_text_of_the_known_language_calls_for_the_standard_path(
    world: World, diagnose: Diagnose
) -> None:
    task = world.text("known", 100, seed=5)
    advice = diagnose(world.text("known"), f"data.task.path={task}")
    assert advice["path"] == "standard"
    assert advice["expand_vocabulary"] is False
    assert advice["overrides"][0] == "stage=finetuning"
    assert abs(advice["evidence"]["learnable"]["beyond_general"]["value"]) < 0.02
    gap = advice["evidence"]["bits_per_byte_gap"]
    assert gap["low"] < 0 < gap["high"]


def test_the_advice_is_plain_data_with_the_keys_that_were_promised(
    world: World, diagnose: Diagnose
) -> None:
    advice = diagnose(world.text("foreign"), "adapter=[vocabulary]")
    assert list(advice) == ["path", "expand_vocabulary", "evidence", "overrides"]
    assert advice["expand_vocabulary"] is True
    assert {"because", "flips", "notes", "probes", "vocabulary", "texts"} <= set(advice["evidence"])
    assert compose(advice["overrides"]).stages["continued_pretraining"].adapter.keys() == {
        "vocabulary"
    }


def test_the_lines_tell_numbers_advice_reasons_flips_and_the_next_command(
    world: World, diagnose: Diagnose
) -> None:
    lines: list[str] = []
    advice = diagnose(world.text("foreign"), "adapter=[vocabulary]", "seed=1", lines=lines)
    text = "\n".join(line.removeprefix("diagnosis: ") for line in lines)
    for beginning in ("tokens per word", "bits per byte", "ADVICE", "because", "otherwise"):
        assert f"\n{beginning}" in text
    assert "\nnext       ontogeny stage=continued_pretraining " in text
    assert text.endswith("all of it is in stages/diagnosis/advice.json of this run's folder")
    said = " ".join(text.split())
    for reason in advice["evidence"]["because"]:
        assert " ".join(reason.split()) in said


def test_metrics_carry_units_and_intervals(world: World, home: Path) -> None:
    result = run(compose(world.overrides(world.text("foreign"))), home.parent / "run")
    metrics = result.metrics["diagnosis"]["diagnosis"]
    bits = metrics["bits_per_byte/domain"]
    assert bits.unit == "bits/byte"
    assert bits.low is not None
    assert bits.high is not None
    assert bits.low < bits.value < bits.high
    beyond = metrics["learnable/domain"].value - metrics["learnable/general"].value
    assert metrics["learnable_beyond_general"].value == pytest.approx(beyond)
    gap = bits.value - metrics["bits_per_byte/general"].value
    assert metrics["bits_per_byte_gap"].value == pytest.approx(gap)
    assert metrics["tokens_per_word/domain"].value > metrics["tokens_per_word/general"].value
    assert result.checkpoint is None


def test_the_same_command_finds_the_advice_in_the_store(
    world: World, diagnose: Diagnose, home: Path
) -> None:
    first = diagnose(world.text("foreign"))
    lines: list[str] = []
    assert diagnose(world.text("foreign"), lines=lines) == first
    assert len(lines) == 1
    assert "finished before" in lines[0]


def test_a_probe_measures_what_the_domain_gains_and_general_text_loses(
    world: World, diagnose: Diagnose
) -> None:
    advice = diagnose(world.text("foreign"), *PROBE)
    alone, mixed = advice["evidence"]["probes"]
    assert alone["steps"] == 12
    assert (alone["share"], mixed["share"]) == (0.0, 0.25)
    assert alone["domain_after"] < 0.9 * alone["domain_before"]
    assert alone["gain"] == pytest.approx(1 - alone["domain_after"] / alone["domain_before"])
    assert mixed["forgetting"] < alone["forgetting"]
    assert alone["domain_before"] == advice["evidence"]["bits_per_byte"]["domain"]["value"]
    assert advice["path"] == "specialised"


def test_a_probe_on_known_text_gains_nothing(world: World, diagnose: Diagnose) -> None:
    advice = diagnose(world.text("known"), *PROBE, "stage.probe_shares=[0.0]")
    assert len(advice["evidence"]["probes"]) == 1
    assert abs(advice["evidence"]["probes"][0]["gain"]) < 0.05
    assert advice["path"] == "standard"


def test_a_diagnosis_that_crashed_in_a_probe_goes_on_there(
    world: World, diagnose: Diagnose, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasts = ("stage.probe_steps=6", "stage.probe_shares=[0.25]", "trainer.save_every_steps=2")
    domain = world.text("foreign", 600)
    whole = diagnose(domain, *PROBE, *lasts)
    monkeypatch.setenv("ONTOGENY_HOME", str(home))
    crash = ("+callbacks.crash._target_=ontogeny.testing.CrashAt", "+callbacks.crash.step=5")
    with pytest.raises(Crash):
        diagnose(domain, *PROBE, *lasts, *crash)
    lines: list[str] = []
    resumed = diagnose(domain, *PROBE, *lasts, lines=lines)
    assert any("probe with 25% general text: going on from step 4" in line for line in lines)
    assert not any("scoring" in line for line in lines)
    assert resumed == whole
    (kept,) = (home / "stages").iterdir()
    assert not list(kept.rglob("training_states"))  # they need not be kept
    assert (kept / "probe-0.25" / "logs" / "metrics.csv").exists()


def test_time_that_is_up_within_a_probe_leaves_the_diagnosis_unfinished(
    world: World, home: Path
) -> None:
    overrides = [*world.overrides(world.text("foreign", 600)), *PROBE, "trainer.max_time=0.001s"]
    result = run(compose(overrides), home.parent / "run")
    assert not result.complete
    assert not (result.folder / "stages" / "diagnosis" / "advice.json").exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.source", "model.source is not set; a diagnosis needs a checkpoint, text of"),
        ("data.domain.path", "data.domain.path is not set; a diagnosis needs a checkpoint"),
        ("data.general.path", "data.general.path is not set; a diagnosis needs a checkpoint"),
    ],
)
def test_what_is_missing_is_named(key: str, message: str, world: World, home: Path) -> None:
    overrides = [item for item in world.overrides(world.general) if not item.startswith(key)]
    with pytest.raises(ConfigError, match=message):
        run(compose(overrides), home.parent / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.path=x.jsonl", r"data.path is .*x.jsonl, which a diagnosis does not read; name the"),
        ("data.sources.a.path=x.jsonl", r"data.sources is \['a'\], which a diagnosis does not"),
        ("data.validation.path=x.jsonl", "data.validation.path is .*: set data.validation.share"),
        (
            "evaluator=[perplexity]",
            r"evaluator is \['perplexity'\], .* by itself: 'evaluator=\[\]'",
        ),
        ("trainer.max_steps=7", "trainer.max_steps is 7, .*; a probe is stage.probe_steps long"),
        ("trainer.max_epochs=1", "trainer.max_epochs is 1.0, .*; a probe is stage.probe_steps"),
        ("data.max_length=128", "data.max_length is 128, longer than the context of the model: 64"),
    ],
)
def test_what_would_not_be_read_is_refused(
    override: str, message: str, world: World, home: Path
) -> None:
    write(Path("x.jsonl"), KNOWN.rows(9, seed=1))
    overrides = [item for item in world.overrides(world.text("foreign")) if "max_len" not in item]
    override = override.replace("x.jsonl", str(Path("x.jsonl").resolve()))
    with pytest.raises(ConfigError, match=message):
        run(compose([*overrides, "data.max_length=64", override]), home.parent / "run")


def test_one_text_in_both_places_is_refused(world: World, home: Path) -> None:
    with pytest.raises(DataError, match=r"data.domain.path and data.general.path hold the same"):
        run(compose(world.overrides(world.general)), home.parent / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty|has no rows"),
        ('{"text": " "}\n', "empty text"),
        ('{"body": "a"}\n', "no column 'text'; expected text, the columns are body"),
        ('{"text": "a"}\n', "has 1 rows, too few to measure on some and count in others"),
    ],
)
def test_text_that_cannot_be_used_is_named(
    content: str, message: str, world: World, home: Path
) -> None:
    file = home.parent / "bad.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        run(compose(world.overrides(file)), home.parent / "run")


def test_a_checkpoint_without_a_tokenizer_is_refused(world: World, home: Path) -> None:
    bare = home.parent / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((world.checkpoint / name).read_bytes())
    overrides = [*world.overrides(world.text("foreign")), f"model.source={bare}"]
    with pytest.raises(CheckpointError, match="holds no tokenizer that can be loaded"):
        run(compose(overrides), home.parent / "run")


def test_a_checkpoint_that_predicts_no_numbers_is_refused(world: World, home: Path) -> None:
    broken = home.parent / "broken"
    model = AutoModelForCausalLM.from_pretrained(world.checkpoint)
    model.model.layers[0].mlp.up_proj.weight.data.fill_(float("nan"))
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(world.checkpoint).save_pretrained(broken)
    overrides = [*world.overrides(world.text("foreign")), f"model.source={broken}"]
    with pytest.raises(CheckpointError, match=r"broken', which predicts NaN or infinity in \d+ of"):
        run(compose(overrides), home.parent / "run")


@pytest.mark.parametrize("head", ["LlamaForSequenceClassification", "LlamaForTokenClassification"])
def test_a_checkpoint_with_another_head_is_refused(head: str, world: World, home: Path) -> None:
    other = home.parent / "other"
    other.mkdir()
    for file in world.checkpoint.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "architectures": [head]}))
    overrides = [*world.overrides(world.text("foreign")), f"model.source={other}"]
    with pytest.raises(ConfigError, match=f"a {head}, whose output layer predicts no next token"):
        run(compose(overrides), home.parent / "run")


def test_an_encoder_is_refused(world: World, home: Path) -> None:
    folder, tokenizer = home.parent / "encoder", AutoTokenizer.from_pretrained(world.checkpoint)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    overrides = [*world.overrides(world.text("foreign")), f"model.source={folder}"]
    with pytest.raises(ConfigError, match="a BertForMaskedLM, whose output layer predicts no next"):
        run(compose([*overrides, "head=masked_lm"]), home.parent / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probe_steps": 0}, "stage.probe_steps is 0; expected 1 or more"),
        ({"documents": 0}, "stage.documents is 0; expected 1 or more"),
        ({"min_learnable": 1.5}, "stage.min_learnable is 1.5; expected a share from 0 to below 1"),
        ({"probe_shares": []}, "stage.probe_shares is empty; expected shares of general text"),
        ({"probe_shares": [0.1, 1.0]}, "stage.probe_shares is 1.0; expected a share from 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Diagnosis(**options)


def test_the_command_line_takes_its_options_under_its_own_name(
    cli: Callable[..., Ended], world: World, home: Path
) -> None:
    ended = cli(*world.overrides(world.text("foreign")), "diagnosis.min_learnable=0.95")
    assert ended.code == 0, ended.err
    assert "ADVICE     standard" in ended.out
    assert "below 95.0% (stage.min_learnable)" in " ".join(
        ended.out.replace("diagnosis:", "").split()
    )
