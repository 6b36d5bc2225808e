"""Whole runs: a checkpoint is trained with an adapter, and what comes out is an ordinary one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ontogeny import compose, run
from ontogeny.adapter import Bundle
from ontogeny.compilation import compile_body, has_compiler
from ontogeny.models import load_pretrained
from ontogeny.options import Model
from ontogeny.preflight import PreflightError
from ontogeny.testing.resume import check_resume
from ontogeny.testing.trial import trial
from ontogeny_plugins.lora import Lora

Run = Callable[..., Path]
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QUICK = [
    "stage=pretraining",
    "stage.sample_tokens=0",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "precision=32-true",
    "data.max_length=32",
    "data.batch_size=4",
    "trainer.max_steps=4",
    "optimizer.lr=1e-2",
    "evaluator.perplexity.resamples=20",
]


@pytest.fixture
def trained(home: Path, text_file: Path) -> Run:
    """Return a function that trains and returns the checkpoint; `lines` are what it said."""

    def train(source: Path, overrides: Sequence[str], lines: list[str] | None = None) -> Path:
        said: list[str] = [] if lines is None else lines
        config = compose([*QUICK, f"model.source={source}", f"data.path={text_file}", *overrides])
        checkpoint = run(config, announce=said.append).checkpoint
        assert checkpoint is not None
        return checkpoint

    return train


def moved(before: Path, after: Path) -> set[str]:
    """Return the ends of the names of the layers that have changed."""
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert old.keys() == new.keys()
    return {name.split(".")[-2] for name in old if not torch.equal(old[name], new[name])}


def test_a_run_with_lora_changes_the_linear_layers_and_leaves_an_ordinary_checkpoint(
    base: Path, trained: Run
) -> None:
    lines: list[str] = []
    after = trained(base, ["adapter=[lora]", "adapter.lora.r=4"], lines)
    assert moved(base, after) == set(LINEAR)
    assert type(AutoModelForCausalLM.from_pretrained(after)).__name__ == "LlamaForCausalLM"
    proofs = [line for line in lines if "adapter.lora" in line]
    assert any("trains few weights" in line and "in 14 layers" in line for line in proofs)
    assert any("starts as its base" in line and "holds" in line for line in proofs)
    assert any("merges to what it computes" in line and "holds" in line for line in proofs)


def test_an_adapter_that_is_kept_goes_into_the_next_stage(base: Path, trained: Run) -> None:
    kept = trained(base, ["adapter=[dora]", "adapter.dora.merge=false", "adapter.dora.r=4"])
    assert not (kept / "model.safetensors").exists()
    lineage = json.loads((kept / "lineage.json").read_text())
    assert lineage["config"]["adapter"]["dora"]["merge"] is False
    merged = trained(kept, ["adapter=[lora]", "adapter.lora.target_modules=[up_proj]"])
    assert moved(base, merged) == set(LINEAR)


def test_embeddings_have_their_learning_rate_beside_lora(base: Path, trained: Run) -> None:
    options = ["adapter.lora.train_also=[embed_tokens]", "optimizer.embedding_lr=1e-3"]
    after = trained(base, ["adapter=[lora]", *options])
    assert moved(base, after) == {*LINEAR, "embed_tokens"}


def test_the_first_batches_reach_an_adapter_that_starts_from_them(base: Path, trained: Run) -> None:
    lines: list[str] = []
    options = ["adapter.eva.r=2", "adapter.eva.init_batches=2"]
    after = trained(base, ["adapter=[eva]", *options], lines)
    assert moved(base, after) <= set(LINEAR)
    assert any("starts as its base" in line and "0.0e+00" in line for line in lines)


def test_an_option_that_nothing_reads_is_found_out(base: Path, trained: Run) -> None:
    with pytest.raises(PreflightError, match=r"nothing reads adapter.lora.init_batches"):
        trained(base, ["adapter=[lora]", "adapter.lora.init_batches=3"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["adapter=[lora]", "adapter.lora.dropout=0.1", "adapter.lora.dora=true"],
        ["adapter=[lora]", "adapter.lora.r=2", "adapter.lora.init=eva"],
        ["adapter=[lora]", "adapter.lora.r=4", "adapter.lora.init=pissa_niter_4"],
    ],
    ids=lambda options: options[-1],
)
def test_a_run_that_was_killed_ends_in_the_same_bytes(
    options: list[str], tiny_overrides: list[str], text_file: Path
) -> None:
    small = [each for each in tiny_overrides if not each.startswith("tokenizer.")]
    overrides = [*small, *options]
    with trial("adapter", "lora", "pretraining", overrides) as made:
        check_resume(made, text_file)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_a_compiled_body_computes_the_same(
    bundle_of: Callable[[str], Bundle],
    apply: Callable[..., object],
    ids_BT: torch.Tensor,
    tmp_path: Path,
) -> None:
    outcomes = []
    for compiled in (False, True):
        bundle = bundle_of("llama")
        apply(Lora(r=4, init="pissa"), bundle)
        if compiled:
            compile_body(bundle.model, tmp_path)
        logits = bundle.model.train()(ids_BT).logits
        logits.square().mean().backward()
        grads = [each.grad for each in bundle.model.parameters() if each.requires_grad]
        outcomes.append([logits.detach(), *grads])
    for plain, fast in zip(*outcomes, strict=True):
        torch.testing.assert_close(plain, fast, atol=1e-5, rtol=1e-4)


TOKENS = ["river", "stone", "house", "light"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("merge", [True, False], ids=["merged", "kept"])
def test_new_rows_and_lora_are_trained_together(merge: bool, base: Path, trained: Run) -> None:
    options = [f"adapter.vocabulary.tokens=[{','.join(TOKENS)}]", f"adapter.lora.merge={merge}"]
    folder = trained(base, ["adapter=[vocabulary,lora]", "adapter.lora.r=4", *options])
    size = len(AutoTokenizer.from_pretrained(folder))
    assert size >= 259 + len(TOKENS)
    model = load_pretrained(AutoModelForCausalLM, Model(source=str(folder)), {})
    old = load_file(base / "model.safetensors")
    new = model.state_dict()
    embedding = new["model.embed_tokens.weight"]
    assert embedding.shape == (size, 32)
    # The old rows of a frozen model stay; the rows of new tokens and the linear layers learn.
    assert torch.equal(embedding[:259], old["model.embed_tokens.weight"])
    moved_names = {
        name.split(".")[-2]
        for name in old
        if old[name].shape == new[name].shape and not torch.equal(old[name], new[name])
    }
    assert moved_names == set(LINEAR)
    if merge:
        return
    opened = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[5, 259, 6, size - 1]])
    with torch.no_grad():
        torch.testing.assert_close(opened(ids).logits, model.eval()(ids).logits)
