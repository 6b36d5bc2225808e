"""A model that has learned a few answers by heart gives them in every format it is exported to."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.plugins.export.conftest import Place, bpe_tokenizer, llama, saved
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from ontogeny import compose, run
from ontogeny.lifecycle import RunResult
from ontogeny.testing.trial import store_at

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

LLAMA_CPP = importlib.util.find_spec("llama_cpp") is not None
ANSWERS = {
    "Who jumps over the dog?": "The quick brown fox jumps over it.",
    "Where do rivers run?": "Rivers run to the sea, and not back.",
    "What lines the banks?": "Naïve façades line their banks.",
    "How fast is the fox?": "It is 1234 times as fast as the dog.",
}
LONGEST = 40  # tokens of an answer
QUICK = ("data.max_length=96", "trainer.accelerator=cpu", "precision=32-true")
FEW_BITS = {"int8": 0.02, "int4": 0.5}  # what bits per byte may rise by


def rows(file: Path) -> Path:
    """Write the questions and answers as conversations."""
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in ANSWERS.items()
    ]
    file.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return file


def spoken(file: Path) -> Path:
    """Write what the model has learned as the text that it has learned it in."""
    tokenizer = bpe_tokenizer()
    texts = [
        tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
        for line in rows(file.with_name("rows.jsonl")).read_text().splitlines()
    ]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


@pytest.fixture(scope="session")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint that was trained for some seconds, until it knew the answers."""
    folder = tmp_path_factory.mktemp("assistant")
    source = saved(folder / "new", llama(initializer_range=0.02), bpe_tokenizer())
    config = compose(
        [
            *("stage=sft", f"model.source={source}", *QUICK, "preflight=off", "evaluator=[]"),
            *(f"data.path={rows(folder / 'rows.jsonl')}", "data.validation.share=0"),
            *("data.batch_size=4", "data.packing=false", "optimizer.lr=1e-2", "seed=1"),
            *("trainer.max_epochs=null", "trainer.max_steps=80"),
            *("trainer.compile=false", "trainer.progress=false"),
        ]
    )
    with store_at(folder / "store"):
        result = run(config, folder / "run")
    assert result.checkpoint is not None
    return result.checkpoint


def asked(folder: Path, question: str) -> list[int]:
    """Return a question in the tokens and the chat template of a folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turn = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    return cast("list[int]", ids)


def said(model: Any, folder: Path, question: str, **options: Any) -> str:
    """Return the greedy answer of a model as transformers writes it."""
    prompt = torch.tensor([asked(folder, question)])
    written = model.eval().generate(prompt, do_sample=False, max_new_tokens=LONGEST, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)).strip()


def said_by_onnx(folder: Path, question: str) -> str:
    """Return the greedy answer of a graph in ONNX Runtime, token by token."""
    session = pytest.importorskip("onnxruntime").InferenceSession(folder / "model.onnx")
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    prompt, written = asked(folder, question), list[int]()
    while len(written) < LONGEST and not (written and written[-1] in stops):
        ids = np.array([[*prompt, *written]])
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        written.append(int(session.run(["logits"], given)[0][0, -1].argmax()))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.decode(written, skip_special_tokens=True)).strip()


def said_by_llama_cpp(opened: Any, question: str) -> str:
    """Return the greedy answer of a file with its own template, tokens and stops alone."""
    turn = [{"role": "user", "content": question}]
    given = opened.create_chat_completion(turn, temperature=0, max_tokens=LONGEST)
    assert given["choices"][0]["finish_reason"] == "stop"
    return str(given["choices"][0]["message"]["content"]).strip()


def on_card(folder: Path, name: str) -> float:
    """Return a figure of a model card."""
    card = (folder / "README.md").read_text()
    found = re.findall(rf"^\| {name} \| ([-+.e\d]+)", card, re.MULTILINE)
    assert found, f"{name} stands not in {card}"
    return float(found[0])


def assert_all_known(answers: Callable[[str], str]) -> None:
    assert {question: answers(question) for question in ANSWERS} == ANSWERS


def assert_differences_on_card(folder: Path, before: str) -> None:
    """Check that a card says what was lost, and that its figures fit together."""
    for name in ("bits_per_byte", "perplexity"):
        after, first = on_card(folder, name), on_card(folder, before.format(name))
        assert on_card(folder, f"{name}_rise") == pytest.approx(after / first - 1, abs=2e-5)


def export(place: Place, source: Path, *options: str) -> RunResult:
    """Export on the text that the model knows."""
    text = spoken(place.folder / "spoken.jsonl")
    prompts = json.dumps(list(ANSWERS)[:2])
    given = [f"data.path={text}", f"stage.prompts={prompts}", "data.max_length=96"]
    return place.export(source, *given, f"stage.answer_tokens={LONGEST}", *options)


def test_the_checkpoint_itself_knows_the_answers(assistant: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(assistant)
    assert_all_known(lambda question: said(model, assistant, question))


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_gguf_gives_the_answers_of_its_checkpoint(
    place: Place, assistant: Path, dtype: str
) -> None:
    gguf = pytest.importorskip("gguf")
    result = export(place, assistant, "exporter=[gguf]", f"exporter.gguf.dtype={dtype}")
    folder, file = place.exported("gguf"), f"model-{dtype}.gguf"
    assert result.metrics["export"]["gguf"]["same_answer"].value == 1
    assert_differences_on_card(folder, "{}_of_checkpoint")
    if LLAMA_CPP:
        opened = importlib.import_module("llama_cpp").Llama(
            str(folder / file), n_ctx=96, verbose=False
        )
        assert_all_known(lambda question: said_by_llama_cpp(opened, question))
        opened.close()
        return
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, quantization_config=GgufConfig(dequantize=True)
    )
    # transformers does not read the end of a turn out of a file.
    fields = gguf.GGUFReader(folder / file).fields
    stops = [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("eot", "eos")]
    assert_all_known(lambda question: said(model, assistant, question, eos_token_id=stops))


def test_onnx_gives_the_answers_of_its_checkpoint(place: Place, assistant: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = export(place, assistant, "exporter=[onnx]")
    folder = place.exported("onnx")
    assert result.metrics["export"]["onnx"]["same_answer"].value == 1
    assert_differences_on_card(folder, "{}_of_checkpoint")
    assert_all_known(lambda question: said_by_onnx(folder, question))


def quantised(place: Place, source: Path, dtype: str) -> Path:
    """Return the folder of a checkpoint in few bits."""
    given: Sequence[str] = (
        *("stage=compression", "adapter=[quantization]", f"adapter.quantization.dtype={dtype}"),
        *(f"model.source={source}", *QUICK, f"stage.budget={FEW_BITS[dtype]}"),
        *(f"data.path={spoken(place.folder / 'spoken.jsonl')}", "data.validation.share=0.5"),
        "adapter.quantization.group_size=32",
    )
    result = run(compose(given), place.folder / "run")
    assert result.checkpoint is not None
    return result.checkpoint


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_quantised_folder_gives_the_answers_of_its_checkpoint(
    place: Place, assistant: Path, dtype: str
) -> None:
    folder = quantised(place, assistant, dtype)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model.model.layers[0].mlp.up_proj.weight).__module__.startswith("torchao")
    assert_all_known(lambda question: said(model, folder, question))
    assert_differences_on_card(folder, "{}_before")
