"""Stage `export`: every format is opened again and says what its checkpoint says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.plugins.export.conftest import TEXTS, Place, Values, bpe_tokenizer, saved
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ontogeny import ConfigError
from ontogeny.errors import UserError
from ontogeny.testing import check_exporter

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_safetensors_of_half_the_size_say_nearly_the_same(
    place: Place, checkpoint: Path, measured: Values
) -> None:
    options = ["exporter=[safetensors]", "exporter.safetensors.dtype=bfloat16", "stage.budget=0.1"]
    found = measured(place.export(checkpoint, *options), "safetensors")
    model = AutoModelForCausalLM.from_pretrained(place.exported("safetensors"), dtype="auto")
    assert model.dtype == torch.bfloat16
    assert 0 < found["largest_difference"] < 0.1
    assert found["same_highest_output"] > 0.9


def test_the_figures_are_those_of_the_texts(
    place: Place, checkpoint: Path, measured: Values
) -> None:
    found = measured(place.export(checkpoint, "exporter=[safetensors]"), "safetensors")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    nats, tokens = 0.0, 0
    for text in TEXTS:
        ids = [0, *tokenizer.encode(text, add_special_tokens=False)][:64]
        with torch.no_grad():
            loss = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss
        nats, tokens = nats + float(loss) * (len(ids) - 1), tokens + len(ids) - 1
    expected = torch.tensor(nats / tokens).exp()
    assert found["perplexity_of_checkpoint"] == pytest.approx(float(expected), rel=1e-4)
    assert found["perplexity"] == pytest.approx(float(expected), rel=1e-4)
    assert found["divergence"] == pytest.approx(0, abs=1e-6)


def test_the_card_and_the_lineage_of_an_export_say_what_was_measured(
    place: Place, checkpoint: Path, measured: Values
) -> None:
    found = measured(place.export(checkpoint, "exporter=[safetensors]"), "safetensors")
    card = (place.exported("safetensors") / "README.md").read_text()
    assert "## Export: safetensors, beside the checkpoint" in card
    assert f"| perplexity_of_checkpoint | {found['perplexity_of_checkpoint']:.6g} | 1 |" in card
    lineage = json.loads((place.exported("safetensors") / "lineage.json").read_text())
    figures = lineage["figures"]["Export: safetensors, beside the checkpoint"]
    assert figures["bits_per_byte"]["value"] == pytest.approx(found["bits_per_byte"])


def test_an_export_that_changes_too_much_is_not_kept(place: Place, checkpoint: Path) -> None:
    options = ["exporter=[safetensors]", "exporter.safetensors.dtype=bfloat16"]
    with pytest.raises(UserError, match=r"bits per byte change by .*stage.budget allows 0.00%"):
        place.export(checkpoint, *options, "stage.budget=1e-9")
    assert not place.exported("safetensors").exists()


def test_the_same_export_again_is_found_in_the_store(
    place: Place, checkpoint: Path, measured: Values
) -> None:
    first = place.export(checkpoint, "exporter=[safetensors]")
    again = place.export(checkpoint, "exporter=[safetensors]")
    assert measured(again, "safetensors") == measured(first, "safetensors")
    assert again.stages["export"].samples == first.stages["export"].samples != []
    assert any("finished before" in line for line in place.lines)


def test_onnx_and_program_take_any_batch_and_keep_what_generation_needs(
    place: Place, checkpoint: Path, measured: Values
) -> None:
    result = place.export(checkpoint, "exporter=[onnx,program]")
    own = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    ids_BT = torch.randint(3, 300, (3, 17))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 9:] = 0
    with torch.no_grad():
        expected = own(input_ids=ids_BT, attention_mask=mask_BT).logits
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(place.exported("onnx") / "model.onnx")
    assert {each.name for each in session.get_inputs()} == {"input_ids", "attention_mask"}
    assert session.get_outputs()[0].name == "logits"
    given = {"input_ids": ids_BT.numpy(), "attention_mask": mask_BT.numpy()}
    found = torch.from_numpy(session.run(["logits"], given)[0])
    program = torch.export.load(place.exported("program") / "model.pt2").module()
    for logits in (found, program(input_ids=ids_BT, attention_mask=mask_BT)["logits"]):
        real = mask_BT.bool()
        torch.testing.assert_close(logits[real], expected[real], rtol=1e-3, atol=1e-3)
    for name in ("onnx", "program"):
        assert measured(result, name)["same_answer"] == 1
        generation = json.loads((place.exported(name) / "generation_config.json").read_text())
        assert generation["eos_token_id"] == [2, 0]  # the end of a turn, and that of a text
        tokenizer = AutoTokenizer.from_pretrained(place.exported(name))
        assert "<|im_start|>" in tokenizer.chat_template


def test_a_classifier_is_exported_with_its_head(place: Place, measured: Values) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    config = BertConfig(vocab_size=303, num_hidden_layers=1, num_labels=3, **sizes)
    tokenizer = bpe_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    source = saved(
        place.folder / "bert",
        BertForSequenceClassification(config),
        tokenizer,
        "sequence_classification",
    )
    options = ["head=sequence_classification", "exporter=[program,safetensors]"]
    found = measured(place.export(source, *options), "program")
    assert set(found) == {"largest_difference", "same_highest_output", "size"}
    assert found["same_highest_output"] == 1


def t5(folder: Path) -> Path:
    config = T5Config(vocab_size=303, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return saved(folder, T5ForConditionalGeneration(config), bpe_tokenizer(), "seq2seq_lm")


def gpt2(folder: Path) -> Path:
    config = GPT2Config(vocab_size=303, n_embd=16, n_layer=1, n_head=2, n_positions=128)
    return saved(folder, GPT2LMHeadModel(config), bpe_tokenizer())


def rwkv(folder: Path) -> Path:
    sizes = {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2}
    model = RwkvForCausalLM(RwkvConfig(vocab_size=303, context_length=64, **sizes))
    return saved(folder, model, bpe_tokenizer())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (rwkv, ["exporter=[program]"], r"model_type rwkv.; supported are decoders.*safetensors"),
        (t5, ["head=seq2seq_lm", "exporter=[onnx]"], "encoder and a decoder; supported are"),
        (t5, ["head=seq2seq_lm", "exporter=[gguf]"], "model_type t5.*supported are.*llama"),
        (gpt2, ["exporter=[peft]"], "a whole model: train with adapter"),
        (gpt2, ["exporter=[]"], "exporter is empty.*choose some of gguf, onnx"),
        (gpt2, ["exporter=[safetensors]", "optimizer.lr=1"], "nothing reads optimizer.lr"),
        (gpt2, ["exporter=[safetensors]", "adapter=[lora]"], "adapter is lora, which an export"),
        (gpt2, ["exporter=[safetensors]", "exporter.safetensors.dtype=int8"], "expected one of"),
        (gpt2, ["exporter=[safetensors]", "stage.budget=0"], "stage.budget is 0.0; expected more"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    place: Place, model: Callable[[Path], Path], options: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        place.export(model(place.folder / "model"), *options)
    assert "\n" not in str(caught.value)


def test_a_format_of_another_plugin_is_verified_like_ours(
    place: Place, checkpoint: Path, local_plugin: Callable[..., None]
) -> None:
    local_plugin("doubling", PLUGIN)
    with pytest.raises(UserError, match=r"exporter.doubling: the export is not the checkpoint"):
        place.export(checkpoint, "exporter=[doubling]", "exporter.doubling.factor=2")
    place.export(checkpoint, "exporter=[doubling]", "exporter.doubling.factor=1")
    assert (place.exported("doubling") / "weights.pt").exists()


PLUGIN = """
    from dataclasses import dataclass
    from ontogeny import Component, hookimpl
    from ontogeny.exporter import Exported, Exporter

    @dataclass
    class Doubling:
        '''Saves weights, and multiplies outputs.'''
        factor: float = 2.0  # of the outputs

    class Opened(Exported):
        def __init__(self, model, factor):
            self.model, self.factor = model, factor

        def outputs(self, ids):
            import torch
            with torch.no_grad():
                return self.model(input_ids=torch.tensor([ids])).logits[0] * self.factor

    class DoublingExporter(Exporter):
        def __init__(self, config):
            self.config = config

        def export(self, bundle, source, folder):
            import torch
            self.model = bundle.model
            torch.save(bundle.model.state_dict(), folder / "weights.pt")

        def open(self, folder):
            return Opened(self.model, self.config.factor)

    @hookimpl
    def ontogeny_exporters():
        return [Component("doubling", Doubling, "doubling:DoublingExporter")]
"""


def test_onnx_keeps_the_contract_of_exporters() -> None:
    pytest.importorskip("onnxruntime")
    check_exporter("onnx")


def test_gguf_keeps_the_contract_of_exporters(checkpoint: Path) -> None:
    check_exporter("gguf", overrides=[f"model.source={checkpoint}"])
