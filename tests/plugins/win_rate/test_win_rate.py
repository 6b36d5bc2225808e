"""Win rates: who judges, at which lengths, in which order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ontogeny import ConfigError, compose, run
from ontogeny.testing import byte_tokenizer, check_evaluator
from ontogeny_plugins.win_rate.length_control import length_controlled

PROMPTS = [{"prompt": text} for text in ("Why?", "What is a river?", "Name a bird.", "So?")]


def speaker(folder: Path, seed: int) -> Path:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def models(tmp_path: Path, home: Path) -> tuple[Path, Path]:
    return speaker(tmp_path / "one", 0), speaker(tmp_path / "other", 1)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return file


class Likes(BaseHTTPRequestHandler):
    """A judge: prefers what it is shown first, a letter, or fails."""

    says = "A"
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(body)
        status = 200 if self.says else 401
        self.send_response(status)
        self.end_headers()
        answer = {"choices": [{"message": {"content": self.says}}]}
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Likes]]]:
    class Handler(Likes):
        asked: ClassVar[list[dict[str, Any]]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}/v1", Handler
        made.shutdown()


def measured(one: Path, other: Path, rows: Path, *more: str) -> dict[str, Any]:
    overrides = [
        "stage=evaluation",
        f"model.source={one}",
        f"data.path={rows}",
        "evaluator=[win_rate]",
        f"evaluator.win_rate.against={other}",
        "evaluator.win_rate.max_tokens=8",
        "evaluator.win_rate.resamples=50",
        "trainer.accelerator=cpu",
        "precision=32-true",
        *more,
    ]
    return run(compose(overrides)).metrics["evaluation"]["win_rate"]


def test_both_orders_of_two_models_add_up_to_one(models: tuple[Path, Path], rows: Path) -> None:
    one, other = models
    by_reward = ["reward=[pattern]", "reward.pattern.pattern='[aeiou]'"]
    ours = measured(one, other, rows, *by_reward)
    theirs = measured(other, one, rows, *by_reward)
    assert ours["win_rate"].value + theirs["win_rate"].value == pytest.approx(1)
    controlled = [each["length_controlled_win_rate"].value for each in (ours, theirs)]
    assert sum(controlled) == pytest.approx(1, abs=1e-6)
    assert ours["longer_by"].value == -theirs["longer_by"].value


def test_a_model_against_itself_ties(models: tuple[Path, Path], rows: Path) -> None:
    found = measured(models[0], models[0], rows, "reward=[length]")
    assert found["win_rate"].value == 0.5
    assert found["ties"].value == 1
    assert found["length_controlled_win_rate"].value == pytest.approx(0.5)


def test_a_judge_that_likes_what_comes_first_is_found_out(
    models: tuple[Path, Path], rows: Path, server: tuple[str, type[Likes]]
) -> None:
    url, handler = server
    options = ["evaluator.win_rate.judge=server", f"evaluator.win_rate.url={url}"]
    found = measured(*models, rows, *options, "evaluator.win_rate.model=judge")
    assert found["win_rate"].value == 0.5
    assert found["orders_agree"].value == 0
    assert len(handler.asked) == 2 * len(PROMPTS)
    assert handler.asked[0]["model"] == "judge"
    assert "Why?" in str([each["messages"][0]["content"] for each in handler.asked])


def test_a_judge_without_a_verdict_ends_the_run_with_its_address(
    models: tuple[Path, Path], rows: Path, server: tuple[str, type[Likes]]
) -> None:
    url, handler = server
    handler.says = ""
    options = ["evaluator.win_rate.judge=server", f"evaluator.win_rate.url={url}"]
    with pytest.raises(ConfigError, match=r"gives no verdict: HTTP 401"):
        measured(*models, rows, *options, "evaluator.win_rate.model=judge")


def test_length_control_takes_away_wins_that_length_explains() -> None:
    generator = np.random.default_rng(0)
    longer = generator.normal(1.0, 1.0, 4000)
    wins = (generator.random(4000) < 1 / (1 + np.exp(-2 * np.tanh(longer)))).astype(float)
    assert wins.mean() > 0.65
    assert length_controlled(wins, longer) == pytest.approx(0.5, abs=0.03)


def test_length_control_leaves_wins_that_length_does_not_explain() -> None:
    wins = np.array([1.0] * 75 + [0.0] * 25)
    assert length_controlled(wins, np.zeros(100)) == pytest.approx(0.75, abs=1e-3)
    assert 0.9 < length_controlled(np.ones(100), np.zeros(100)) <= 1


def test_a_server_needs_an_address() -> None:
    with pytest.raises(ConfigError, match=r"evaluator\.win_rate\.url is not set"):
        compose(
            [
                *("stage=evaluation", "model.source=x", "evaluator=[win_rate]"),
                *("evaluator.win_rate.against=y", "evaluator.win_rate.judge=server"),
            ]
        )


def test_the_contract_is_kept(models: tuple[Path, Path]) -> None:
    check_evaluator(
        "win_rate",
        rows=PROMPTS,
        stage="reinforcement",
        overrides=[
            f"model.source={models[0]}",
            "evaluator=[win_rate]",
            f"evaluator.win_rate.against={models[1]}",
            "evaluator.win_rate.max_tokens=4",
            "reward=[length]",
        ],
    )
