"""`ontogeny show-mask`: rows as they are trained, with marks around what is learnt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from ontogeny.show_mask import TRAINED, _text, _tokens, masked_rows
from ontogeny.testing import byte_tokenizer


class Ended(Protocol):
    """How a command line ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"What is {n}?", "completion": f"It is {n}. ü"} for n in range(40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def base(tmp_path: Path, home: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 300}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def show(cli: Run, base: Path, rows: Path) -> Run:
    """Return a function that shows the rows of a stage `sft`."""

    def run(*overrides: str) -> Ended:
        return cli(
            "show-mask", "stage=sft", f"model.source={base}", f"data.path={rows}", *overrides
        )

    return run


def test_what_is_trained_is_marked_and_nothing_is_trained(show: Run, rows: Path) -> None:
    ended = show("rows=2", "data.validation.share=0")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[-4:] == [
        f"{rows}:1  39 tokens, 12 trained",
        "<user>What is 0?<assistant>«It is 0. ü<|endoftext|>»",
        f"{rows}:2  39 tokens, 12 trained",
        "<user>What is 1?<assistant>«It is 1. ü<|endoftext|>»",
    ]
    assert not list(Path.cwd().iterdir())


def test_three_rows_are_shown_unless_others_are_wanted(show: Run) -> None:
    assert show().out.count("trained\n") == 3
    assert show("rows=5").out.count("trained\n") == 5


def test_a_row_that_is_too_long_is_shown_as_it_is_cut(show: Run) -> None:
    ended = show("rows=1", "data.max_length=33", "data.validation.share=0")
    assert "34 tokens, 7 trained, cut from 39 to data.max_length=33\n" in ended.out
    assert ended.out.endswith("<assistant>«It is 0»\n")


def test_a_bad_row_is_named_or_told_to_be_left_out(show: Run, rows: Path) -> None:
    rows.write_text(json.dumps({"prompt": "Hi", "completion": " "}) + "\n" + rows.read_text())
    reason = "the completion is empty: no token of it can be trained"
    refused = show("data.validation.share=0")
    assert refused.code == 2
    assert f"{rows}:1: {reason}; mend the row" in refused.err
    skipped = show("data.validation.share=0", "data.on_error=skip")
    assert f"{rows}:1  left out: {reason}\n" in skipped.out


def test_pretraining_is_shown_too(cli: Run, home: Path, text_file: Path) -> None:
    ended = cli("show-mask", f"data.path={text_file}", "rows=1", "tokenizer.vocab_size=300")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1].startswith("<|endoftext|>«")


def test_an_encoder_is_shown_beside_what_the_decoder_learns(show: Run) -> None:
    ended = show("stage=sft_seq2seq", "rows=1", "data.validation.share=0")
    assert "10 tokens of the encoder, 12 trained in the decoder\n" in ended.out
    assert ended.out.endswith("What is 0?\n«It is 0. ü<|endoftext|>»\n")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rows=0"], "rows is '0'; expected a whole number of 1 or more"),
        (["rows=many"], "rows is 'many'; expected a whole number of 1 or more"),
        (["stage=diagnosis"], "stage diagnosis trains nothing, so that there is no mask to show"),
        (["data.pth=x"], "no option data.pth (did you mean 'data.path'?)"),
        (["stage=sft"], "no data: set data.path"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(
    overrides: list[str], message: str, cli: Run, base: Path
) -> None:
    ended = cli("show-mask", "stage=sft", f"model.source={base}", *overrides)
    assert ended.code == 2
    assert message in ended.err


def test_labels_of_the_tokens_themselves_are_not_moved() -> None:
    ids, labels = np.array([5, 6, 7]), np.array([-100, 1, 2])
    tokens, trained = _tokens(ids, labels)
    assert tokens.tolist() == [5, 6, 7]
    assert trained.tolist() == [False, True, True]


def test_a_terminal_gets_colours_instead_of_marks(base: Path, rows: Path) -> None:
    overrides = ["stage=sft", f"model.source={base}", f"data.path={rows}", "rows=1"]
    (row,) = masked_rows(overrides, lambda _: None)
    text = _text(row.segments, coloured=True)
    assert "«" not in text.plain
    answers = [text.plain[span.start : span.end] for span in text.spans if span.style == TRAINED]
    assert [answer.startswith("It is ") for answer in answers] == [True]
    console = Console(force_terminal=True, color_system="standard", width=200)
    with console.capture() as captured:
        console.print(text)
    assert "\x1b[1;32mIt is " in captured.get()


def test_of_several_stages_none_is_shown(cli: Run, local_plugin: Callable[..., None]) -> None:
    lifecycle = """\
        # @package _global_
        defaults:
          - /stage@stages.pretrain: pretraining
          - /stage@stages.teach: sft
          - override /stage: null
        """
    plugin = """\
        from ontogeny import hookimpl

        @hookimpl
        def ontogeny_config_paths():
            return ["pkg://shown.conf"]
        """
    files = {"shown/__init__.py": plugin, "shown/conf/__init__.py": ""}
    local_plugin("shown", plugin, **files, **{"shown/conf/lifecycle/two.yaml": lifecycle})
    ended = cli("show-mask", "lifecycle=two")
    assert ended.code == 2
    assert "show-mask looks at a single stage, not at pretrain, teach; usage:" in ended.err
