"""`ontogeny serve`: an openai client gets the checkpoint's own answers over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ontogeny.adapter import Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.plugins import registry
from ontogeny.serving import Serve, _start
from ontogeny.testing import byte_tokenizer

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
QUESTION: list[Any] = [{"role": "user", "content": "hi"}]
START_SECONDS = 120


def save(folder: Path, **lineage: object) -> Path:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=259, num_hidden_layers=1, eos_token_id=0, initializer_range=0.5, **sizes
    )
    model = LlamaForCausalLM(config)
    readable = byte_tokenizer().encode("abc ", add_special_tokens=False)
    others = [number for number in range(259) if number not in readable]
    model.lm_head.weight.data[others] = 0  # else it would write halves of characters
    head = registry().get("head", "causal_lm").component.load()(None)
    bundle = Bundle(cast("Any", model), byte_tokenizer(), head)
    return save_checkpoint(bundle, folder, lineage)


@dataclass
class Server:
    """A server that answers."""

    process: subprocess.Popen[str]
    port: int
    checkpoint: Path

    @property
    def client(self) -> Any:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    checkpoint = save(tmp_path_factory.mktemp("served") / "checkpoint", stage="sft")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "ontogeny", "serve", str(checkpoint), f"port={port}"]
    log = checkpoint.parent / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, text=True, env={**os.environ}
        )
    deadline = time.monotonic() + START_SECONDS
    while "\nserving " not in f"\n{log.read_text()}":
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield Server(process, port, checkpoint)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def greedy(checkpoint: Path, text: str, tokens: int) -> str:
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return cast("str", tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_a_client_gets_a_streamed_answer(server: Server) -> None:
    stream = server.client.chat.completions.create(
        model="sft", messages=QUESTION, temperature=0, max_tokens=8, stream=True
    )
    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 1
    expected = greedy(server.checkpoint, "<user>hi<assistant>", 8)
    assert "".join(piece or "" for piece in pieces) == expected


def test_the_model_is_listed_by_the_name_of_its_stage(server: Server) -> None:
    assert [model.id for model in server.client.models.list().data] == ["sft"]


def test_temperature_is_heeded(server: Server) -> None:
    def answer(seed: int) -> str:
        found = server.client.chat.completions.create(
            model="sft", messages=QUESTION, temperature=2.0, seed=seed, max_tokens=12
        )
        return cast("str", found.choices[0].message.content)

    assert answer(1) != answer(2)


def test_the_stop_token_of_the_checkpoint_ends_an_answer(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "checkpoint")
    place = tmp_path / "cache"
    place.mkdir()
    command, environment = _start("transformers", str(checkpoint), "m", Serve(), place)
    assert environment["HF_HUB_OFFLINE"] == "1"
    served = next(place.rglob("generation_config.json"))
    assert '"eos_token_id": 0' in served.read_text()
    assert '"do_sample": true' in served.read_text()
    assert command[command.index("serve") + 1] == "m"


def test_vllm_is_started_with_the_folder_and_the_name(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "checkpoint")
    options = Serve(port=9, options="--max-model-len 128")
    command, _ = _start("vllm", str(checkpoint), "m", options, tmp_path / "cache")
    assert command[:2] == ["vllm", "serve"]
    assert Path(command[2], "model.safetensors").exists()
    assert command[3:5] == ["--served-model-name", "m"]
    assert command[-2:] == ["--max-model-len", "128"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engine=vllm"], "engine is vllm, which is not installed"),
        (["engine=mine"], "engine is 'mine'; expected one of auto, transformers, vllm"),
        (["port=abc"], "port is 'abc'; expected a whole number"),
        (["prot=1"], "did you mean 'port'"),
    ],
)
def test_wrong_options_are_said_in_one_line(
    cli: Callable[..., Any], tmp_path: Path, arguments: list[str], message: str
) -> None:
    ended = cli("serve", str(save(tmp_path / "checkpoint")), *arguments)
    assert (ended.code, message in ended.err) == (2, True), ended.err
    assert ended.err.count("\n") == 1


def test_what_cannot_be_served_is_said_in_one_line(cli: Callable[..., Any], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = f"port={taken.getsockname()[1]}"
        for arguments, message in (
            ([], "usage: ontogeny serve CHECKPOINT"),
            ([str(tmp_path / "nowhere")], "which does not exist"),
            ([str(adapter)], "'exporter=[safetensors]'"),
            ([str(save(tmp_path / "checkpoint")), port], "cannot listen on 127.0.0.1"),
        ):
            ended = cli("serve", *arguments)
            assert (ended.code, message in ended.err) == (2, True), ended.err
            assert ended.err.count("\n") == 1
