"""Two ranks distil as one process does; those that write keep what each has written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.plugins.distillation.conftest import RUN, STUDENT, saved, small_llama
from tests.plugins.distillation.test_distillation_stage import other_tokenizer

pytestmark = pytest.mark.slow

ONE = ("data.batch_size=4", "data.workers=0")
TWO = ("data.batch_size=2", "data.workers=0", "trainer.devices=2", "trainer.strategy=ddp")
MATCHED = ("objective.hidden=1", "objective.attention=1", "model.attention=eager")
OFFLINE = ("objective.teacher=offline", "objective.top=16")


def distil(folder: Path, *overrides: str) -> tuple[Path, str]:
    """Run the command line in a store of its own; return the stage and what was printed."""
    environment = {"ONTOGENY_HOME": str(folder / "store"), "OMP_NUM_THREADS": "1"}
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "ontogeny", *overrides],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (stage,) = folder.glob("store/stages/*")
    return stage, done.stdout


def assert_same_weights(one: Path, other: Path) -> None:
    files = (each / "checkpoint/model.safetensors" for each in (one, other))
    expected, weights = (load_file(file) for file in files)
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [MATCHED, OFFLINE], ids=["memory", "offline"])
def test_two_ranks_give_the_student_of_one(
    teacher: Path, texts: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    common = ["stage=distillation", *STUDENT, *RUN, f"teacher.source={teacher}"]
    common += [f"data.path={texts}", *options]
    one, two = (distil(tmp_path / name, *common, *how)[0] for name, how in PAIR)
    assert_same_weights(one, two)


PAIR = (("one", ONE), ("two", TWO))


def test_two_ranks_give_the_student_of_one_between_tokenizers(
    teacher: Path, texts: Path, tmp_path: Path
) -> None:
    other_tokenizer(texts).save_pretrained(tmp_path / "tokens")
    common = ["stage=distillation_cross_tokenizer", *STUDENT, *RUN, f"teacher.source={teacher}"]
    common += [f"data.path={texts}", f"tokenizer.source={tmp_path / 'tokens'}"]
    one, two = (distil(tmp_path / name, *common, *how)[0] for name, how in PAIR)
    assert_same_weights(one, two)


def test_each_rank_keeps_its_own_answers_and_goes_on_with_them(
    teacher: Path, answers: Path, tmp_path: Path
) -> None:
    student = saved(tmp_path / "student", small_llama(3, num_hidden_layers=1))
    common = ["stage=distillation_on_policy", *RUN, f"teacher.source={teacher}", *TWO]
    common += [f"model.source={student}", f"data.path={answers}", "objective.max_tokens=4"]
    common += ["objective.replay=4", "objective.student_share=0.7", "objective.share_step=0.1"]
    common += ["evaluator=[completion_perplexity]", "trainer.evaluate_every=1"]
    common += ["trainer.save_every_steps=1", "optimizer.lr=1e-2"]
    whole, _ = distil(tmp_path / "whole", *common)
    crash = "+callbacks.crash={_target_: ontogeny.testing.resume.CrashAt, step: 5}"
    with pytest.raises(AssertionError, match="crash"):
        distil(tmp_path / "cut", *common, crash)
    (states,) = (tmp_path / "cut").rglob("training_states")
    state: dict[str, Any] = torch.load(states / "step-00000005/state.pt", weights_only=True)
    first, second = (ids.tolist() for ids, _ in state["written_answers"])
    assert first != second
    again, printed = distil(tmp_path / "cut", *common)
    assert "going on from step 5" in printed
    assert_same_weights(whole, again)
