"""GGUF: names, order of rows and bits are those of llama.cpp; what it does not know is refused."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.export.conftest import SIZES, Place, Values, bpe_tokenizer, llama, saved
from tokenizers import pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ontogeny import ConfigError
from ontogeny.errors import UserError
from ontogeny_plugins.export.gguf.weights import llama3_factors, neighbours

gguf = pytest.importorskip("gguf")
LLAMA_CPP = importlib.util.find_spec("llama_cpp") is not None
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
COMMON = {**SIZES, "vocab_size": 303, "bos_token_id": 0, "eos_token_id": 0}


def gpt2() -> Any:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=303, initializer_range=0.2, **sizes, **ids))


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama tied, with biases": lambda: llama(tie_word_embeddings=True, attention_bias=True),
    "mistral": lambda: MistralForCausalLM(
        MistralConfig(**COMMON, head_dim=16, sliding_window=None)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**COMMON)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**COMMON, head_dim=16)),
    "gpt2": gpt2,
}
# transformers does not read how frequencies are slowed out of a file.
IN_LLAMA_CPP = {"llama 3": lambda: llama(rope_parameters=LLAMA3)}


@pytest.mark.parametrize("family", [*FAMILIES, *(IN_LLAMA_CPP if LLAMA_CPP else {})])
def test_a_file_in_float32_says_what_its_checkpoint_says(
    place: Place, measured: Values, family: str
) -> None:
    torch.manual_seed(0)
    model = {**FAMILIES, **IN_LLAMA_CPP}[family]()
    source = saved(place.folder / "model", model, bpe_tokenizer())
    options = ["exporter=[gguf]", "exporter.gguf.dtype=f32"]
    found = measured(place.export(source, *options), "gguf")
    assert found["largest_difference"] < 1e-3
    assert found["same_answer"] == 1


@pytest.mark.parametrize(("dtype", "share"), [("f16", 0.51), ("q8_0", 0.30), ("q4_0", 0.25)])
def test_fewer_bits_are_fewer_bytes_and_nearly_the_same(
    place: Place, checkpoint: Path, measured: Values, dtype: str, share: float
) -> None:
    options = ["exporter=[gguf]", f"exporter.gguf.dtype={dtype}", "stage.budget=0.5"]
    found = measured(place.export(checkpoint, *options), "gguf")
    file = place.exported("gguf") / f"model-{dtype}.gguf"
    reader = gguf.GGUFReader(file)
    size = sum(tensor.n_bytes for tensor in reader.tensors)
    assert size < share * 4 * llama().num_parameters()
    assert abs(found["bits_per_byte"] / found["bits_per_byte_of_checkpoint"] - 1) < 0.1
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == dtype.upper()
    assert kinds["output_norm.weight"] == "F32"


def test_template_and_stop_ids_are_in_the_file(place: Place, checkpoint: Path) -> None:
    place.export(checkpoint, "exporter=[gguf]")
    reader = gguf.GGUFReader(place.exported("gguf") / "model-f16.gguf")

    def field(name: str) -> Any:
        return reader.fields[f"tokenizer.{name}"].contents()

    assert "<|im_start|>" in field("chat_template")
    assert field("ggml.eos_token_id") == 0
    assert field("ggml.eot_token_id") == 2
    assert field("ggml.add_bos_token") is False
    assert field("ggml.pre") == "gpt-2"
    assert field("ggml.tokens")[1] == "<|im_start|>"
    assert field("ggml.tokens")[302] == "[PAD302]"  # a row that no token has


def test_rows_that_turn_together_stand_side_by_side() -> None:
    rows = torch.arange(8.0)[:, None]  # two heads of four: the halves of one are 0 1 and 2 3
    assert neighbours(rows, heads=2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_slowed_frequencies_are_those_of_transformers() -> None:
    config = LlamaConfig(**COMMON, rope_parameters=dict(LLAMA3))
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 5e5 ** -(torch.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(llama3_factors(config), (plain / slowed).numpy(), rtol=1e-5)


def test_without_llama_cpp_that_is_said_in_the_lines(
    place: Place, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ontogeny_plugins.export.gguf import exporter

    monkeypatch.setattr(exporter, "find_spec", lambda name: None if name == "llama_cpp" else 1)
    place.export(checkpoint, "exporter=[gguf]")
    assert any("llama-cpp-python is not installed" in line for line in place.lines)


def test_a_tokenizer_that_splits_in_its_own_way_is_refused(place: Place) -> None:
    tokenizer = bpe_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    source = saved(place.folder / "model", llama(), tokenizer)
    with pytest.raises(ConfigError, match="no name for; supported is byte-level BPE"):
        place.export(source, "exporter=[gguf]")


@pytest.mark.skipif(not LLAMA_CPP, reason="needs llama-cpp-python, a C++ build of minutes")
def test_a_file_whose_text_is_split_otherwise_is_not_kept(
    place: Place, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ontogeny_plugins.export.gguf import tokens

    wrong = dict.fromkeys(tokens.SPLITS, "llama-bpe")
    monkeypatch.setattr(tokens, "SPLITS", wrong)
    with pytest.raises(UserError, match="its tokenizer encodes"):
        place.export(checkpoint, "exporter=[gguf]")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: llama(hidden_act="gelu"), "hidden_act of the model is 'gelu'"),
        (
            lambda: MistralForCausalLM(MistralConfig(**COMMON, sliding_window=16)),
            "sliding_window of the model is 16",
        ),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(
    place: Place, model: Callable[[], Any], message: str
) -> None:
    source = saved(place.folder / "model", model(), bpe_tokenizer())
    with pytest.raises(ConfigError, match=message):
        place.export(source, "exporter=[gguf]")
