"""Pre-training and continued pre-training of masked language models, end to end."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from ontogeny import ConfigError, compose, run
from ontogeny.lifecycle import RunResult
from ontogeny.preflight import PreflightError
from ontogeny.testing import CrashAt
from ontogeny.testing.resume import Crash
from ontogeny.testing.trial import store_at

SENTENCE = "the river stone of a wind was it light and dark house on road old young came saw"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
}
TINY = [
    *(f"model.config.{name}={value}" for name, value in SIZES.items()),
    "tokenizer.vocab_size=300",
]
RUN = [
    "data.max_length=32",
    "data.batch_size=2",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "precision=32-true",
]
MEASURED = ["evaluator.pseudo_perplexity.resamples=2", "evaluator.pseudo_perplexity.tokens=4"]
FAMILIES = ["bert", "roberta", "modernbert"]


@pytest.fixture(autouse=True)
def text(home: Path) -> Path:
    """Write 40 texts, of which some are longer than a row; return their file."""
    words = SENTENCE.split()
    rows = (" ".join(words[row * step % len(words)] for step in range(30)) for row in range(40))
    file = Path("text.jsonl")
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return file


def train(stage: str, *overrides: str, model: Sequence[str] = ()) -> RunResult:
    given = [f"stage={stage}", "data.path=text.jsonl", *RUN, *MEASURED, *model, *overrides]
    config = compose(given)
    return run(config, Path("run"), lambda _: None)


def pretrain(family: str, *overrides: str) -> RunResult:
    return train("pretraining_mlm", *overrides, model=[f"model={family}_tiny", *TINY])


def losses(result: RunResult) -> list[float]:
    with (result.folder / "stages/pretraining/logs/metrics.csv").open() as lines:
        return [float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_pre_trained_opened_elsewhere_and_trained_further(family: str) -> None:
    first = pretrain(family).checkpoint
    assert first is not None
    model, tokenizer = (
        kind.from_pretrained(first) for kind in (AutoModelForMaskedLM, AutoTokenizer)
    )
    inputs = tokenizer(f"the river {tokenizer.mask_token} of a wind", return_tensors="pt")
    assert inputs["input_ids"][0, 0] == tokenizer.cls_token_id
    with torch.no_grad():
        logits = model(input_ids=inputs["input_ids"]).logits
    assert logits.shape == (*inputs["input_ids"].shape, len(tokenizer))
    second = train("continued_pretraining_mlm", f"model.source={first}", "objective.masking=span")
    again = AutoModelForMaskedLM.from_pretrained(second.checkpoint)
    assert type(again) is type(model)
    before, after = (each.get_input_embeddings().weight.detach() for each in (model, again))
    assert 0 < float((before - after).abs().max()) < 0.1
    assert "pseudo_perplexity" in second.metrics["continued_pretraining"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    ["albert", "electra", "xlm-roberta", "camembert", "ernie", "nomic_bert", "mpnet", "roformer"],
)
def test_other_families_are_pre_trained_and_trained_further(family: str) -> None:
    model = ["model=base", f"model.config.model_type={family}", *TINY]
    first = train("pretraining_mlm", model=model).checkpoint
    assert AutoModelForMaskedLM.from_pretrained(first).config.model_type == family
    assert train("continued_pretraining_mlm", f"model.source={first}").checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("family", ["distilbert", "esm", "deberta"])
def test_families_that_cannot_pack_or_name_their_sizes_otherwise_are_trained_too(
    family: str,
) -> None:
    own = ["dim=32", "hidden_dim=48", "n_layers=2", "n_heads=2", "max_position_embeddings=40"]
    sizes = [f"model.config.{size}" for size in own] if family == "distilbert" else TINY[:-1]
    model = ["model=base", f"model.config.model_type={family}", *sizes, TINY[-1]]
    first = train("pretraining_mlm", "data.packing=false", model=model).checkpoint
    again = train("continued_pretraining_mlm", "data.packing=false", f"model.source={first}")
    assert again.checkpoint


def test_a_model_learns_to_fill_in(text: Path) -> None:
    # One sentence in many halves: a model that looks both ways knows most of it.
    words = SENTENCE.split()
    rows = (" ".join(words[row % 6 : row % 6 + 12]) for row in range(60))
    text.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    options = ["trainer.max_steps=120", "optimizer.lr=1e-2", "data.batch_size=4"]
    options += ["data.validation.path=text.jsonl"]
    result = pretrain("bert", *options, "objective.masking=word")
    assert losses(result)[0] == pytest.approx(math.log(300), abs=0.3)
    metrics = result.metrics["pretraining"]["pseudo_perplexity"]
    assert metrics["nats_per_token"].value < 2


def test_the_defaults_compose_from_single_choices(text: Path) -> None:
    choices = ["objective=mlm", "head=masked_lm", "evaluator=[pseudo_perplexity]"]
    result = train("pretraining", "model=bert_tiny", *choices, model=TINY)
    assert result.stages["pretraining"].samples == []  # such a model does not write
    assert set(result.metrics["pretraining"]) == {"pseudo_perplexity"}


class Watch(L.Callback):
    """Notes what the model is shown in training."""

    shown: list[torch.Tensor]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        def note(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
            Watch.shown.append(inputs["input_ids"].clone())

        Watch.shown = []
        model: torch.nn.Module = pl_module.model  # type: ignore[assignment]
        model.register_forward_pre_hook(note, with_kwargs=True)


def shown(*overrides: str) -> list[torch.Tensor]:
    config = compose(["stage=pretraining_mlm", "data.path=text.jsonl", *RUN, *TINY, *overrides])
    stage = next(iter(config.stages.values()))
    stage.callbacks = {"watch": {"_target_": f"{__name__}.Watch"}}
    stage.evaluator, stage.resume, stage.preflight = {}, "never", False
    run(config, Path("run"), lambda _: None)
    return Watch.shown


def test_every_epoch_has_other_masks_and_a_seed_always_the_same(text: Path) -> None:
    text.write_text(json.dumps({"text": SENTENCE}) + "\n")
    options = ["data.validation.share=0", "data.batch_size=1", "trainer.max_steps=4"]
    first, again, other = shown(*options), shown(*options), shown(*options, "seed=1")
    assert len(first) == 4
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one, two)
    rows = {tuple(each.flatten().tolist()) for each in first}
    assert len(rows) == 4
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_accumulated_batches_have_masks_of_their_own(text: Path) -> None:
    text.write_text(json.dumps({"text": SENTENCE}) + "\n")
    options = ["data.validation.share=0", "data.batch_size=1", "trainer.max_steps=1"]
    one, two = shown(*options, "trainer.accumulate_grad_batches=2")
    assert not torch.equal(one, two)


def test_a_run_that_was_cut_off_goes_on_with_the_same_masks() -> None:
    options = ["trainer.max_steps=6", "trainer.save_every_steps=2", "objective.masking=span"]
    crash = [f"+callbacks.crash._target_={CrashAt.__module__}.CrashAt", "+callbacks.crash.step=5"]
    with store_at(Path("whole")):
        whole = pretrain("bert", *options)
    with store_at(Path("cut")):
        with pytest.raises(Crash):
            pretrain("bert", *options, *crash)
        again = pretrain("bert", *options, "resume=must")
    assert len(losses(whole)) == 6
    assert losses(again)[-2:] == losses(whole)[-2:]
    one, two = (load_file(f"{each.checkpoint}/model.safetensors") for each in (whole, again))
    assert all(one[name].equal(two[name]) for name in one)


def test_a_causal_model_is_refused_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match="this BertLMHeadModel is causal; choose 'evaluator="):
        pretrain("bert", "head=causal_lm")
    words = "every token sees both sides does not hold: the attention layers of this model are caus"
    config = compose(["model=bert_tiny", "objective=mlm", "data.path=text.jsonl", *TINY, *RUN])
    with pytest.raises(PreflightError, match=words):
        run(config, Path("run"), lambda _: None)
    with pytest.raises(ConfigError, match="is a llama model, which has no masked language mod"):
        train("pretraining_mlm", model=["model=llama_tiny"])


def test_options_of_spans_beside_single_tokens_are_keys_that_nothing_reads() -> None:
    with pytest.raises(PreflightError, match=r"nothing reads objective\.span_longest"):
        pretrain("bert", "objective.span_longest=5")


def test_a_family_whose_output_layer_is_hidden_is_refused() -> None:
    sizes = ["embedding_size=16", "intra_bottleneck_size=16", "true_hidden_size=16"]
    model = ["model.config.model_type=mobilebert", *(f"model.config.{each}" for each in sizes)]
    plain = [each for each in TINY if "max_position" not in each]
    with pytest.raises(ConfigError, match="MobileBertForMaskedLM makes 0 tensors of logits in 0 c"):
        train("pretraining_mlm", *model, "data.packing=false", model=plain)


def test_a_family_that_cannot_pack_is_trained_without(text: Path) -> None:
    deberta = ["model.config.model_type=deberta-v2", "model.attention=eager", *TINY]
    with pytest.raises(PreflightError, match=r"takes no mask that keeps .*; set data.packing=fal"):
        train("pretraining_mlm", model=deberta)
    assert train("pretraining_mlm", "data.packing=false", model=deberta).checkpoint
