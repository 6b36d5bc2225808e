"""DistiLLM: the student writes more when validation gets worse, and its answers come again."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from tests.plugins.distillation.conftest import RUN, saved, small_llama
from tests.plugins.distillation.test_distillation_stage import losses

from ontogeny import ConfigError, compose, run
from ontogeny.evaluator import Metric
from ontogeny.testing import check_objective
from ontogeny.testing.resume import CrashAt
from ontogeny_plugins.distillation.replay import STATE, Replay
from ontogeny_plugins.distillation.student_share import StudentShare

METRIC = "completion_perplexity/nats_per_token"


def result(value: float) -> dict[str, dict[str, Metric]]:
    return {"completion_perplexity": {"nats_per_token": Metric(value, "nats/token")}}


def test_the_share_rises_where_validation_is_worse_than_the_time_before() -> None:
    lines: list[str] = []
    share = StudentShare(0.0, 0.4, METRIC, 0.1, lines.append)
    shares = []
    for value in (3.0, 2.0, 2.05, 2.2, 1.0, 1.5, 2.0, 3.0):
        share.look(result(value))
        shares.append(share.share)
    assert shares == pytest.approx([0, 0, 0, 0.4, 0.4, 0.8, 1.0, 1.0])
    assert lines[0] == f"{METRIC} went from 2.05 to 2.2; the student now writes 40% of the answers"
    assert len(lines) == 3


def test_more_may_be_what_is_better() -> None:
    share = StudentShare(0.0, 0.5, "few_shot/accuracy", 0.0, lambda _: None)
    for value in (0.5, 0.4):
        share.look({"few_shot": {"accuracy": Metric(value, "1")}})
    assert share.share == 0.5


def test_answers_come_again_once_there_are_enough_and_ever_more_often() -> None:
    replay = Replay(3, steps=10)
    shares = []
    for step in range(5):
        replay.done = step
        shares.append(replay.share)
        replay.add([1, 2], [step])
    assert shares == [0, 0, 0, 0.3, 0.4]
    torch.manual_seed(0)
    drawn = Counter(replay.draw()[1][0] for _ in range(300))
    assert {*drawn} == {2, 3, 4}  # the latest
    assert min(drawn.values()) > 70


def test_each_rank_finds_its_own_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replays = [Replay(4, steps=10) for _ in range(2)]
    for number, replay in enumerate(replays):
        replay.add([5, 6, 7], [number])
        replay.add([8], [number, 9])
    packed = [each._packed() for each in replays]

    def gathered(every: list[object], own: object) -> None:
        every[:] = packed

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    checkpoint: dict[str, object] = {}
    trainer = cast("Any", SimpleNamespace(world_size=2, global_rank=0))
    module = cast("Any", None)
    replays[0].on_save_checkpoint(trainer, module, checkpoint)
    assert len(cast("list[object]", checkpoint[STATE])) == 2
    for rank, replay in enumerate(replays):
        trainer.global_rank = rank
        again = Replay(4, steps=10)
        again.on_load_checkpoint(trainer, module, checkpoint)
        assert again.answers == replay.answers


WRITING = ["stage=distillation_on_policy", "objective.max_tokens=4"]
STEPS = 8


@pytest.fixture
def given(teacher: Path, answers: Path, tmp_path: Path) -> list[str]:
    student = saved(tmp_path / "student", small_llama(3, num_hidden_layers=1))
    places = [f"teacher.source={teacher}", f"data.path={answers}", f"model.source={student}"]
    return [*RUN, *places, "optimizer.lr=1e-2"]


def test_a_student_that_gets_worse_on_the_data_writes_more_itself(given: list[str]) -> None:
    lines: list[str] = []
    options = ["objective=distillm_adaptive", "objective.replay=4", "objective.share_step=0.5"]
    options += ["evaluator=[completion_perplexity]", "trainer.evaluate_every=1"]
    # a teacher of random weights: to follow it is to leave the data
    config = compose([*WRITING, *given, *options])
    found = run(config, announce=lines.append)
    shares = losses(found, "train/student_share")
    assert shares[0] == 0
    assert shares[-1] == 1
    assert any("the student now writes 50% of the answers" in line for line in lines)
    assert losses(found, "train/divergence")[-1] < losses(found, "train/divergence")[0]


def test_old_answers_are_taken_instead_of_new_ones(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_policy = import_module("ontogeny_plugins.distillation.on_policy")
    written, write = [], on_policy.write

    def counted(bundle: Any, prompts: Any, decoding: Any) -> Any:
        written.append(len(prompts))
        return write(bundle, prompts, decoding)

    monkeypatch.setattr(on_policy, "write", counted)
    share = "objective.student_share=1"
    run(compose([*WRITING, *given, share]))
    assert sum(written) == STEPS * 4
    written.clear()
    run(compose([*WRITING, *given, share, "objective.replay=4"]))
    assert written[0] == 4
    assert 4 < sum(written) < 0.8 * STEPS * 4


@pytest.mark.usefixtures("home")
def test_with_kept_answers_the_objective_keeps_its_contract(teacher: Path) -> None:
    overrides = [f"teacher.source={teacher}", f"model.source={teacher}", "objective.max_tokens=4"]
    overrides += ["objective.replay=2", "objective.student_share=0.8"]
    check_objective("gkd", stage="distillation_on_policy", overrides=overrides)


def test_a_run_that_was_cut_off_goes_on_with_its_share_and_its_answers(
    given: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["objective.share_step=0.2", "trainer.evaluate_every=1", "objective.replay=4"]
    options += ["evaluator=[completion_perplexity]", "objective.student_share=0.3"]
    options += ["trainer.save_every_steps=1", "data.workers=0"]
    config = [*WRITING, *given, *options]
    lines: list[str] = []
    whole = run(compose(config), announce=lines.append)
    assert any("the student now writes" in line for line in lines)
    monkeypatch.setenv("ONTOGENY_HOME", str(home.with_name("another")))
    crash = f"{CrashAt.__module__}.{CrashAt.__name__}"
    with pytest.raises(Exception, match="crash"):
        run(compose([*config, f"+callbacks.crash={{_target_: {crash}, step: 5}}"]))
    again = run(compose(config), announce=lines.append)
    assert any("going on from step 5" in line for line in lines)
    for name in ("loss", "student_share"):
        assert losses(again, f"train/{name}") == losses(whole, f"train/{name}")
    one, other = (load_file(each.checkpoint / "model.safetensors") for each in (whole, again))
    assert all(torch.equal(weights, other[name]) for name, weights in one.items())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["objective.share_step=0.1"], r"trainer\.evaluate_every is 0: the share rises when"),
        (["objective.replay=8", "objective.student_share=0"], "the student writes nothing"),
        (["objective.share_step=2"], "share_step is 2.0; expected 0 to 1"),
        (["objective.share_monitor=a/b"], r"nothing reads objective\.share_monitor"),
        (["objective.share_tolerance=1"], r"nothing reads objective\.share_tolerance"),
        (
            ["objective.share_step=0.1", "trainer.evaluate_every=1", "objective.share_monitor=a/b"],
            r"share_monitor is 'a/b', which no evaluator measures; known: none",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    given: list[str], options: list[str], told: str
) -> None:
    with pytest.raises(Exception, match=told) as caught:
        run(compose([*WRITING, *given, *options]))
    assert isinstance(caught.value, ConfigError) or "preflight" in str(caught.value)
