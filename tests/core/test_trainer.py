"""How long a run may take, who may write, and a Lightning trainer without what we replace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import nn

from ontogeny.errors import ConfigError
from ontogeny.options import Trainer
from ontogeny.ranks import is_first_rank
from ontogeny.trainer import build_trainer, seconds
from ontogeny.training_state import TrainingStates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("90", 90.0),
        ("90s", 90.0),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        (" 10m ", 600.0),
        ("00:00:01:30", 90.0),
        ("01:02:03:04", 86400.0 + 2 * 3600 + 3 * 60 + 4),
        ("2:30", 150.0),
    ],
)
def test_times_are_read_as_people_write_them(text: str | None, expected: float | None) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["soon", "", "10 minutes", "-5s", "1:2:3:4:5", "1h30m"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer.max_time is .*; expected 90s, 10m, 2h, 1d or"):
        seconds(text)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_only_the_first_rank_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first_rank()
    monkeypatch.setenv(name, "0")
    assert is_first_rank()
    monkeypatch.setenv(name, "1")
    assert not is_first_rank()


def build(tmp_path: Path, precision: str = "32-true", **options: object) -> object:
    chosen = Trainer(**{"accelerator": "cpu", "devices": 1, **options})  # type: ignore[arg-type]
    return build_trainer(
        chosen,
        folder=tmp_path,
        precision=precision,
        callbacks=[],
        loggers=[],
        checkpoint_io=TrainingStates(),
        ranks=LightningEnvironment(),
    )


def test_lightning_saves_and_logs_nothing_of_its_own(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    callbacks = {type(each).__name__ for each in trainer.callbacks}  # type: ignore[attr-defined]
    assert "ModelCheckpoint" not in callbacks
    assert "ModelSummary" not in callbacks
    assert trainer.loggers == []  # type: ignore[attr-defined]
    assert isinstance(trainer.strategy.checkpoint_io, TrainingStates)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"accelerator": "nope"}, "trainer: .*invalid accelerator name"),
        ({"strategy": "nope"}, "trainer: .*invalid strategy name"),
        ({"devices": 0}, "trainer: .*devices=0"),
    ],
)
def test_what_lightning_refuses_is_one_line_about_the_trainer(
    options: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_in_true_bfloat16_the_numbers_of_a_batch_stay_as_they_are(tmp_path: Path) -> None:
    plugin = build(tmp_path, "bf16-true").precision_plugin  # type: ignore[attr-defined]
    labels = torch.tensor([257.3])
    assert torch.equal(plugin.convert_input({"target": labels})["target"], labels)
    assert plugin.convert_module(nn.Linear(1, 1)).weight.dtype == torch.bfloat16
    with plugin.forward_context():
        assert torch.zeros(()).dtype == torch.float32
