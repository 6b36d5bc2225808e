"""From a base model to one that answers, as anybody opens it: template, stop tokens, samples."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from ontogeny.data.files import resolve_files
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.sft import SFT
from ontogeny_plugins.sft.objective import SFTObjective

INSTRUCTIONS = "pkg://ontogeny_plugins.demo/data/domain_instructions.jsonl.gz"
QUICK = ["trainer.accelerator=cpu", "precision=32-true", "trainer.progress=false"]


class Ended(Protocol):
    """How a command line ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


def checkpoint(ended: Ended) -> Path:
    """Return the checkpoint of a run that went well."""
    assert ended.code == 0, ended.err
    (line,) = [line for line in ended.out.splitlines() if ": checkpoint " in line]
    return Path(line.partition(": checkpoint ")[2])


@pytest.fixture
def base(tmp_path: Path, home: Path) -> Path:
    """Return a base model, without a chat template."""
    torch.manual_seed(0)
    folder, tokenizer = tmp_path / "base", byte_tokenizer()
    tokenizer.chat_template = None
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, **ids, num_attention_heads=2, vocab_size=len(tokenizer))
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    """Return the first of the instructions that ship along."""
    (file,) = resolve_files(INSTRUCTIONS)
    few = tmp_path / "few.jsonl"
    with gzip.open(file, "rt") as lines:
        few.write_text("".join(islice(lines, 60)))
    return few


@pytest.fixture
def sft(cli: Run, base: Path) -> Run:
    """Return a function that runs the stage on the base model."""

    def run(*overrides: str) -> Ended:
        return cli("stage=sft", f"model.source={base}", *QUICK, "data.max_length=128", *overrides)

    return run


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder.parent / "metrics.json").read_text())["sft"]["completion_perplexity"]


def test_the_shipped_instructions_make_a_base_model_an_assistant(sft: Run, base: Path) -> None:
    ended = sft(f"data.path={INSTRUCTIONS}", "trainer.max_steps=3", "stage.sample_tokens=4")
    folder = checkpoint(ended)
    assert "chat template: chatml, since the tokenizer has none; new tokens <|im_s" in ended.out
    assert "data: rows of data are read as prompt + completion" in ended.out
    assert "model: 2 new rows of embeddings, for added tokens" in ended.out
    assert ended.out.count("sft writes: What is") == 3
    assert set(metrics(folder)) == {"nats_per_token", "perplexity", "bits_per_byte"}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.generation_config.eos_token_id == stops
    assert len(model.get_input_embeddings().weight) == len(tokenizer)
    before = AutoTokenizer.from_pretrained(base)
    assert before.chat_template is None


def test_what_training_rendered_is_what_is_rendered_after_loading(
    sft: Run, instructions: Path
) -> None:
    folder = checkpoint(sft(f"data.path={instructions}", "trainer.max_steps=1", "evaluator=[]"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    row = {"prompt": "What is a mill?", "completion": "A mill is a kind of building."}
    (example,) = SFTObjective(SFT()).prepare([row], tokenizer)
    turn = [{"role": "user", "content": row["prompt"]}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    first = int((example["labels"] != -100).argmax())
    assert example["input_ids"][: first + 1].tolist() == prompt
    answer = {"role": "assistant", "content": row["completion"]}
    text = tokenizer.apply_chat_template([*turn, answer], tokenize=False)
    assert tokenizer.decode([*example["input_ids"], example["labels"][-1]]) == text.rstrip()


@pytest.mark.parametrize("template", ["auto", "plain", "none"])
def test_a_model_that_learnt_an_answer_writes_it_and_stops(
    template: str, sft: Run, tmp_path: Path
) -> None:
    file = tmp_path / "one.jsonl"
    row = {"prompt": "What is 2 + 2?", "completion": " It is 4."}
    file.write_text((json.dumps(row) + "\n") * 8)
    ended = sft(
        *(f"data.path={file}", f"data.validation.path={file}", "trainer.max_epochs=null"),
        *("trainer.max_steps=60", "optimizer.lr=0.02", "data.batch_size=1", "stage.samples=1"),
        f"stage.chat_template={template}",
    )
    folder = checkpoint(ended)
    assert re.search("the end of an answer is trained +holds", ended.out)
    assert "sft writes: What is 2 + 2?\n It is 4.\n" in ended.out
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if template == "none":
        inputs = tokenizer(row["prompt"], return_tensors="pt", return_token_type_ids=False)
    else:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
    written = model.generate(**inputs, max_new_tokens=60, do_sample=False)[0]
    answer = written[inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == row["completion"]
    assert int(answer[-1]) == tokenizer.eos_token_id


def test_rows_that_are_bad_are_named_by_file_and_line_or_left_out(sft: Run, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    good = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "!"}]}
        for n in range(30)
    ]
    bad = {"messages": [{"role": "user", "content": "Are you there?"}]}
    file.write_text("".join(json.dumps(row) + "\n" for row in [*good, bad]))
    refused = sft(f"data.path={file}", "trainer.max_steps=1")
    assert refused.code == 2
    assert f"{file}:31: the conversation ends with a turn of the user" in refused.err
    ended = sft(f"data.path={file}", "trainer.max_steps=1", "data.on_error=skip")
    assert "data: 1 bad rows left out, see rejected-data.jsonl" in ended.out
    rejected = checkpoint(ended).parent / "rejected-data.jsonl"
    assert json.loads(rejected.read_text())["where"] == f"{file}:31"


def test_answers_that_are_cut_off_whole_are_counted_and_left_out(sft: Run, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    rows = [{"prompt": "x " * (200 if n % 3 == 0 else 2), "completion": str(n)} for n in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = sft(
        f"data.path={file}", "trainer.max_steps=1", "data.validation.share=0", "evaluator=[]"
    )
    left_out = "data: 10 examples of data left out: nothing to learn within data.max_length=128"
    assert left_out in ended.out


def test_text_can_be_replayed_beside_answers(sft: Run, instructions: Path, text_file: Path) -> None:
    ended = sft(
        f"data.sources.answers.path={instructions}",
        f"data.sources.general.path={text_file}",
        *("data.sources.answers.weight=0.9", "data.sources.general.weight=0.1"),
        *("trainer.max_steps=2", "stage.samples=0"),
    )
    assert "data: rows of general are read as text, every token trained" in ended.out
    assert "bits_per_byte/general" in metrics(checkpoint(ended))


def test_the_stage_needs_a_checkpoint(cli: Run, home: Path) -> None:
    ended = cli("stage=sft", f"data.path={INSTRUCTIONS}")
    assert ended.code == 2
    assert "model.source is not set; sft goes on from a checkpoint folder or Hub name" in ended.err


def test_an_encoder_decoder_learns_to_answer(cli: Run, home: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    rows = [{"prompt": f"{n} + 1 =", "completion": str(n + 1)} for n in range(4)]
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = cli(
        *("stage=sft_seq2seq", "model=t5_tiny", f"tokenizer.source={tmp_path / 'tokenizer'}"),
        *("model.config.d_model=32", "model.config.d_kv=16", "model.config.d_ff=32"),
        *("model.config.num_layers=1", "model.config.num_decoder_layers=1", "data.batch_size=4"),
        *(f"data.path={file}", f"data.validation.path={file}", "trainer.max_epochs=null"),
        *("trainer.max_steps=80", "optimizer.lr=0.02", "stage.samples=4", *QUICK),
    )
    for row in rows:
        assert f"sft writes: {row['prompt']}\n{row['completion']}\n" in ended.out
    folder = checkpoint(ended)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    ids_1T = torch.tensor([AutoTokenizer.from_pretrained(folder)(rows[2]["prompt"])["input_ids"]])
    written = model.generate(ids_1T, max_new_tokens=10, do_sample=False)[0]
    assert tokenizer.decode(written, skip_special_tokens=True) == rows[2]["completion"]
    assert int(written[-1]) == tokenizer.eos_token_id
