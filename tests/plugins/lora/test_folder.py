"""Adapters kept beside their base: PEFT opens the folder, and so does the next stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from ontogeny import CheckpointError, ConfigError
from ontogeny.adapter import Adapter, Bundle
from ontogeny.checkpoint import checkpoint_digest, save_checkpoint
from ontogeny.models import load_pretrained, new_weights
from ontogeny.options import Model
from ontogeny_plugins.lora import AdaLora, Lora, Peft

Logits = Callable[[PreTrainedModel], Tensor]
Apply = Callable[..., Adapter]
Train = Callable[..., list[float]]
Open = Callable[[Path], PreTrainedModel]
# PEFT and transformers themselves, where the tests use them alone.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias"),
]
KEPT: list[object] = [
    Lora(r=4, merge=False),
    Lora(r=4, merge=False, dora=True),
    Lora(r=4, merge=False, rslora=True, init="pissa"),
    Lora(r=4, merge=False, init="olora", dora=True),
    Lora(r=4, merge=False, train_also=["lm_head", "model.norm"]),
    Lora(r=4, merge=False, train_also=["embed_tokens", "model.layers.0.input_layernorm"]),
    AdaLora(r=2, init_r=4, merge=False),
    Peft(method="ia3", merge=False, target_modules=[]),
    Peft(method="vera", merge=False, options={"r": 8}),
    Peft(method="vblora", merge=False, options={"num_vectors": 16, "vector_length": 16}),
    Peft(method="lily", merge=False, options={"r": 4}),
    Peft(method="beft", merge=False),
]


def load(folder: Path) -> PreTrainedModel:
    return load_pretrained(AutoModelForCausalLM, Model(source=str(folder)), {})


@pytest.fixture
def loaded(base: Path, bundle: Bundle) -> Bundle:
    """Return a bundle whose model came out of the checkpoint `base`."""
    return Bundle(load(base), bundle.tokenizer, bundle.head)


@pytest.fixture
def kept(
    loaded: Bundle, apply: Apply, train: Train, logits: Logits, tmp_path: Path
) -> Callable[[object], tuple[Path, Tensor]]:
    """Return a function that trains an adapter, saves it, and returns its folder and logits."""

    def make(options: object, model: PreTrainedModel | None = None) -> tuple[Path, Tensor]:
        bundle = loaded if model is None else Bundle(model, loaded.tokenizer, loaded.head)
        adapter = apply(options, bundle)
        train(bundle, steps=3, lr=0.3)
        settled = adapter.settle(bundle)
        folder = save_checkpoint(settled, tmp_path / "adapter", {"stage": "sft"})
        return folder, logits(settled.model)

    return make


def close(left: Tensor, right: Tensor) -> bool:
    return float((left - right).abs().max() / right.abs().max()) < 1e-5


@pytest.mark.parametrize("options", KEPT, ids=str)
def test_the_folder_opens_in_peft_and_in_the_next_stage_with_the_same_logits(
    options: object, kept: Callable[..., tuple[Path, Tensor]], base: Path, logits: Logits
) -> None:
    folder, taught = kept(options)
    model = AutoModelForCausalLM.from_pretrained(base)
    assert not close(logits(model), taught)
    assert close(logits(PeftModel.from_pretrained(model, folder)), taught)
    assert close(logits(AutoPeftModelForCausalLM.from_pretrained(folder)), taught)
    if "lily" in str(options) or "beft" in str(options):  # they cannot be merged
        with pytest.raises(CheckpointError, match="cannot be merged into its base"):
            load(folder)
        return
    again = load(folder)
    assert close(logits(again), taught)
    assert set(again.state_dict()) == set(AutoModelForCausalLM.from_pretrained(base).state_dict())
    assert all(each.requires_grad for each in again.parameters())


def test_the_folder_holds_the_adapter_and_no_base(
    kept: Callable[..., tuple[Path, Tensor]], base: Path
) -> None:
    folder, _ = kept(Lora(r=2, merge=False, target_modules=["q_proj"]))
    names = {file.name for file in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert not {"model.safetensors", "config.json"} & names
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base.resolve())
    assert (config["task_type"], config["target_modules"]) == ("CAUSAL_LM", ["q_proj"])
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert size < 2 * 4 * 2 * 64 + 4096  # float32 A and B of two layers of 32 × 32, a header


def test_transformers_opens_the_folder_too(
    kept: Callable[..., tuple[Path, Tensor]], logits: Logits
) -> None:
    folder, taught = kept(Lora(r=4, merge=False))
    assert close(logits(AutoModelForCausalLM.from_pretrained(folder)), taught)


def test_the_same_training_writes_the_same_bytes(
    kept: Callable[..., tuple[Path, Tensor]], base: Path
) -> None:
    digests = []
    for _ in range(2):
        folder, _ = kept(Lora(r=4, merge=False), load(base))
        digests.append(checkpoint_digest("model.source", str(folder)))
        shutil.rmtree(folder)
    assert digests[0] == digests[1]


def test_a_larger_vocabulary_is_saved_and_comes_back(
    kept: Callable[..., tuple[Path, Tensor]], base: Path, logits: Logits
) -> None:
    """As the vocabulary's adapter leaves it, before LoRA is put in; nothing of it is trained."""
    model = load(base)
    model.resize_token_embeddings(270, mean_resizing=False)
    folder, taught = kept(Lora(r=4, merge=False), model)
    again = load(folder)
    assert again.get_input_embeddings().weight.shape == (270, 32)
    assert close(logits(again), taught)


def test_a_larger_vocabulary_opens_in_peft(base: Path, apply: Apply, tmp_path: Path) -> None:
    """PEFT makes room for as many tokens as the tokenizer in the folder has."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<one>", "<two>"])
    model = load(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    bundle = Bundle(model, tokenizer, None)  # the head that settles is the adapter's own
    adapter = apply(Lora(r=4, merge=False), bundle)
    model.get_input_embeddings().weight.requires_grad_(True)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.1)
    folder = save_checkpoint(adapter.settle(bundle), tmp_path / "adapter", {})
    ids = torch.tensor([[1, 259, 2, 260]])
    expected = model.eval()(ids).logits
    found = AutoPeftModelForCausalLM.from_pretrained(folder).eval()(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_head_that_the_base_lacks_is_trained_whole_and_comes_back(
    base: Path, bundle: Bundle, apply: Apply, ids_BT: Tensor, tmp_path: Path
) -> None:
    auto = AutoModelForSequenceClassification
    changes = {"num_labels": 3, "pad_token_id": 1}
    model = load_pretrained(auto, Model(source=str(base)), changes)
    assert new_weights(model) == {"score.weight"}
    classifier = Bundle(model, bundle.tokenizer, bundle.head)
    adapter = apply(Lora(r=4, merge=False), classifier)
    assert model.get_parameter("score.weight").requires_grad
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.1)
    model(ids_BT).logits.square().mean().backward()
    optimizer.step()
    folder = save_checkpoint(adapter.settle(classifier), tmp_path / "adapter", {})
    expected = model.eval()(ids_BT).logits
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["score"]
    again = load_pretrained(auto, Model(source=str(folder)), {})
    assert again.config.num_labels == 3
    assert new_weights(again) == set()
    torch.testing.assert_close(again.eval()(ids_BT).logits, expected, atol=1e-6, rtol=1e-5)
    fresh = auto.from_pretrained(base, num_labels=3, pad_token_id=1)
    opened = PeftModel.from_pretrained(fresh, folder).eval()
    torch.testing.assert_close(opened(ids_BT).logits, expected, atol=1e-6, rtol=1e-5)


def test_a_head_that_the_base_lacks_is_there_after_a_merge(
    base: Path, bundle: Bundle, apply: Apply, ids_BT: Tensor
) -> None:
    model = load_pretrained(
        AutoModelForSequenceClassification, Model(source=str(base)), {"pad_token_id": 1}
    )
    classifier = Bundle(model, bundle.tokenizer, bundle.head)
    adapter = apply(Lora(r=4), classifier)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.1)
    model(ids_BT).logits.square().mean().backward()
    optimizer.step()
    expected = model.eval()(ids_BT).logits
    adapter.settle(classifier)
    torch.testing.assert_close(model(ids_BT).logits, expected, atol=1e-6, rtol=1e-5)


def test_the_digest_covers_the_base(kept: Callable[..., tuple[Path, Tensor]], base: Path) -> None:
    folder, _ = kept(Lora(r=4, merge=False))
    before = checkpoint_digest("model.source", str(folder))
    assert checkpoint_digest("model.source", str(folder)) == before
    (base / "generation_config.json").write_text("{}")
    assert checkpoint_digest("model.source", str(folder)) != before


def test_a_base_that_was_moved_is_one_line_with_both_names(
    kept: Callable[..., tuple[Path, Tensor]], base: Path
) -> None:
    folder, _ = kept(Lora(r=4, merge=False))
    base.rename(base.with_name("elsewhere"))
    words = f"model.source is '{folder}', an adapter on the base '{base.resolve()}', which does not"
    for use in (lambda: load(folder), lambda: checkpoint_digest("model.source", str(folder))):
        with pytest.raises(CheckpointError, match=words) as caught:
            use()
        assert "\n" not in str(caught.value)


def rebase(folder: Path, base: Path) -> None:
    file = folder / "adapter_config.json"
    config = {**json.loads(file.read_text()), "base_model_name_or_path": str(base)}
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("with_config", [True, False], ids=["ours", "of PEFT alone"])
def test_a_base_of_another_architecture_is_one_line_with_both_names(
    with_config: bool,
    kept: Callable[..., tuple[Path, Tensor]],
    bundle_of: Callable[[str], Bundle],
    tmp_path: Path,
) -> None:
    folder, _ = kept(Lora(r=4, merge=False))
    other = save_checkpoint(bundle_of("gpt2"), tmp_path / "gpt2", {})
    rebase(folder, other)
    if not with_config:
        (folder / "model_config.json").unlink()
    words = f"model.source is '{folder}', an adapter .*does not fit its base '{other}'"
    if with_config:
        words = (
            rf"model.source is '{folder}', an adapter for llama \(hidden_size 32, .* base "
            rf"'{other}': gpt2 \(hidden_size 32"
        )
    with pytest.raises(CheckpointError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("with_config", [True, False], ids=["ours", "of PEFT alone"])
@pytest.mark.parametrize("change", [{"num_hidden_layers": 1}, {"hidden_size": 64}], ids=str)
def test_a_base_of_other_sizes_is_one_line(
    change: dict[str, int],
    with_config: bool,
    kept: Callable[..., tuple[Path, Tensor]],
    bundle: Bundle,
    tmp_path: Path,
) -> None:
    folder, _ = kept(Lora(r=4, merge=False))
    config = bundle.model.config
    for name, value in change.items():
        setattr(config, name, value)
    config.head_dim = config.hidden_size // 4
    other = tmp_path / "other"
    type(bundle.model)(config).save_pretrained(other)
    rebase(folder, other)
    if not with_config:
        (folder / "model_config.json").unlink()
    with pytest.raises(CheckpointError, match=f"an adapter .* its base '{other}'") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_adapter_on_an_adapter_is_refused(kept: Callable[..., tuple[Path, Tensor]]) -> None:
    folder, _ = kept(Lora(r=4, merge=False))
    first = folder.rename(folder.with_name("first"))
    with pytest.raises(ConfigError, match="an adapter itself: merge that one first"):
        kept(Lora(r=4, merge=False), load(first))
    merged = load(first)
    assert merged.name_or_path == str(first)
    rebase(first, first)
    with pytest.raises(CheckpointError, match="which is an adapter itself: merge that one first"):
        load(first)


def test_a_base_with_random_weights_keeps_no_adapter(bundle: Bundle, apply: Apply) -> None:
    words = "adapter.lora.merge is false, which keeps an adapter beside: the model has random weig"
    with pytest.raises(ConfigError, match=words):
        apply(Lora(r=4, merge=False), bundle)


def test_pickled_weights_are_refused(kept: Callable[..., tuple[Path, Tensor]]) -> None:
    folder, _ = kept(Lora(r=4, merge=False))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"which holds no adapter_model.safetensors"):
        load(folder)


def test_a_folder_without_the_name_of_its_base_is_one_line(
    kept: Callable[..., tuple[Path, Tensor]],
) -> None:
    folder, _ = kept(Lora(r=4, merge=False))
    rebase(folder, Path())
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match="names no base_model_name_or_path: write it in"):
        load(folder)
