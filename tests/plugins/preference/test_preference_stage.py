"""The stage: cached references are read once, other references agree, runs that crash go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.plugins.preference.conftest import small_llama

from ontogeny import ConfigError, compose, run
from ontogeny.testing import byte_tokenizer
from ontogeny.testing.resume import Crash

WORDS = ["river", "stone", "wind", "light", "dark", "house", "road", "old", "young", "came", "saw"]


@pytest.fixture
def source(tmp_path: Path, home: Path) -> Path:
    """Return a checkpoint of a small decoder."""
    folder = tmp_path / "base"
    tokenizer = byte_tokenizer()
    small_llama(5).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"{word} {number}?", "chosen": word * 2, "rejected": f"no {word}"}
        for number in range(4)
        for word in WORDS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def overrides(source: Path, pairs: Path) -> list[str]:
    return [
        "stage=preference",
        f"model.source={source}",
        f"data.path={pairs}",
        "data.max_length=64",
        "data.batch_size=4",
        "data.validation.share=0.2",
        "trainer.max_steps=6",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        "optimizer.lr=1e-3",
        "precision=32-true",
        "stage.sample_tokens=0",
    ]


def weights(checkpoint: Any) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def annotated_folders(home: Path) -> list[Path]:
    folder = home / "annotations"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_held_out_pairs_are_learnt_to_be_preferred(overrides: list[str]) -> None:
    result = run(compose([*overrides, "trainer.max_steps=40", "optimizer.lr=3e-3"]))
    metrics = result.metrics["preference"]["preference"]
    assert metrics["accuracy"].value > 0.9
    assert metrics["margin"].value > 0
    assert metrics["margin"].unit == "nats"


def test_the_reference_reads_all_pairs_once_for_all_points_of_a_sweep(
    overrides: list[str], home: Path
) -> None:
    losses = []
    for beta in (0.1, 0.5):
        result = run(compose([*overrides, f"objective.beta={beta}", "objective.loss=ipo"]))
        log = (result.folder / "stages/preference/logs/metrics.csv").read_text().splitlines()
        column = log[0].split(",").index("train/loss")
        losses.append(float(log[1].split(",")[column]))
    assert losses == pytest.approx([1 / (4 * 0.1**2), 1 / (4 * 0.5**2)], rel=1e-4)
    assert len(annotated_folders(home)) == 1


@pytest.mark.parametrize("adapter", [[], ["adapter=[lora]"]])
def test_references_that_are_the_same_model_give_the_same_weights(
    adapter: list[str], overrides: list[str]
) -> None:
    kinds = ["cached", "frozen", *(["adapter_off"] if adapter else [])]
    found = [
        weights(run(compose([*overrides, *adapter, f"objective.reference={kind}"])).checkpoint)
        for kind in kinds
    ]
    for other in found[1:]:
        for name, tensor in found[0].items():
            assert torch.allclose(tensor, other[name], atol=2e-5), name


def test_another_checkpoint_can_be_the_reference(
    overrides: list[str], tmp_path: Path, home: Path
) -> None:
    folder = tmp_path / "other"
    small_llama(9).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    result = run(compose([*overrides, f"teacher.source={folder}"]))
    log = (result.folder / "stages/preference/logs/metrics.csv").read_text().splitlines()
    first = dict(zip(log[0].split(","), log[1].split(","), strict=True))
    assert float(first["train/loss"]) != pytest.approx(0.693147, abs=1e-3)
    assert len(annotated_folders(home)) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["objective.reference=adapter_off"], "there is no adapter to switch off"),
        (
            ["adapter=[vocabulary]", "adapter.vocabulary.size=5", "adapter.vocabulary.min_saved=1"],
            "model.source does not know 5 of the 264 tokens of the data",
        ),
        (
            ["adapter=[vocabulary,lora]", "objective.reference=adapter_off", "evaluator=[]"],
            "cannot be switched off",
        ),
        (["data.max_length=8"], "no example of data fits into 8 tokens"),
        (["model.source=null"], "goes on from a checkpoint folder"),
    ],
)
def test_references_that_are_none_are_told_before_the_training(
    changes: list[str], told: str, overrides: list[str]
) -> None:
    with pytest.raises(ConfigError.__mro__[1], match=told):
        run(compose([*overrides, *changes]))


def test_a_teacher_with_other_words_is_refused(overrides: list[str], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["new"])
    folder = tmp_path / "other"
    small_llama(9, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"teacher\.source has another vocabulary \(260 tokens\)"):
        run(compose([*overrides, f"teacher.source={folder}"]))


def test_a_reference_that_follows_the_model_is_in_the_training_state(overrides: list[str]) -> None:
    follows = [
        *overrides,
        "objective.reference=frozen",
        "objective.sync_every=2",
        "trainer.save_every_steps=3",
    ]
    crash = ["+callbacks.crash._target_=ontogeny.testing.CrashAt", "+callbacks.crash.step=5"]
    still = weights(run(compose([*overrides, "objective.reference=frozen"])).checkpoint)
    with pytest.raises(Crash):
        run(compose([*follows, *crash]))
    resumed = weights(run(compose([*follows, "resume=must"])).checkpoint)
    assert any(not torch.equal(still[name], resumed[name]) for name in still)


def test_a_run_that_follows_gives_the_same_bytes_after_a_crash(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follows = [
        *overrides,
        "objective.reference=frozen",
        "objective.sync_every=2",
        "trainer.save_every_steps=3",
    ]
    crash = ["+callbacks.crash._target_=ontogeny.testing.CrashAt", "+callbacks.crash.step=5"]
    with pytest.raises(Crash):
        run(compose([*follows, *crash]))
    resumed = run(compose([*follows, "resume=must"])).checkpoint
    assert resumed is not None
    bytes_after_a_crash = (resumed / "model.safetensors").read_bytes()
    monkeypatch.setenv("ONTOGENY_HOME", str(tmp_path / "another"))
    whole = run(compose(follows)).checkpoint
    assert whole is not None
    assert (whole / "model.safetensors").read_bytes() == bytes_after_a_crash


def test_kto_learns_from_single_answers(overrides: list[str], tmp_path: Path) -> None:
    file = tmp_path / "judged.jsonl"
    rows = [
        {"prompt": f"{word} {n}?", "completion": answer, "label": good}
        for n in range(3)
        for word in WORDS
        for answer, good in ((word * 2, True), (f"no {word}", False))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kto = [f"data.path={file}", "stage=preference_unpaired", "trainer.max_steps=30"]
    others = [item for item in overrides if not item.startswith("stage=")]
    result = run(compose([*others, *kto, "optimizer.lr=3e-3"]))
    lines = (result.folder / "stages/preference/logs/metrics.csv").read_text().splitlines()
    log = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert float(log[0]["train/loss"]) == pytest.approx(0.5, abs=1e-4)
    assert float(log[-1]["train/loss"]) < 0.4
    assert float(log[-1]["train/reward_good"]) > float(log[-1]["train/reward_bad"])


def test_a_checkpoint_is_measured_against_its_reference_alone(
    overrides: list[str], source: Path, pairs: Path
) -> None:
    trained = run(compose([*overrides, "trainer.max_steps=40", "optimizer.lr=3e-3"])).checkpoint
    evaluation = [
        "stage=evaluation",
        f"model.source={trained}",
        f"data.path={pairs}",
        "data.max_length=64",
        "evaluator=[preference]",
        "trainer.accelerator=cpu",
        "precision=32-true",
    ]
    against = run(compose([*evaluation, f"teacher.source={source}"]))
    found = against.metrics["evaluation"]["preference"]
    assert found["accuracy"].value > 0.9
    assert found["margin"].value > 0
    itself = run(compose(evaluation)).metrics["evaluation"]["preference"]
    assert itself["accuracy"].value == 0.5
    assert itself["margin"].value == 0.0
