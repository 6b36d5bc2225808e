"""The first stage of a life, end to end: a checkpoint that others open, and what it writes."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ontogeny import ConfigError, compose, run
from ontogeny.lifecycle import RunResult
from ontogeny.preflight import PreflightError
from ontogeny_plugins.pretraining import Pretraining

SENTENCE = "the river stone of a wind was it light and dark house on road old young came saw"


@dataclass
class Place:
    """Where a few runs of one test share a store and a text."""

    folder: Path
    overrides: Sequence[str]
    lines: list[str]

    def run(self, *overrides: str) -> RunResult:
        text = self.folder / "text.jsonl"
        if not text.exists():
            words = SENTENCE.split()
            rows = (
                " ".join(words[row * step % len(words)] for step in range(30)) for row in range(60)
            )
            text.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        config = compose([*self.overrides, f"data.path={text}", *overrides])
        return run(config, self.folder / "run", self.lines.append)


@pytest.fixture
def place(home: Path, tiny_overrides: list[str], tmp_path: Path) -> Place:
    return Place(tmp_path, tiny_overrides, [])


def log(result: RunResult) -> list[dict[str, str]]:
    with (result.folder / "stages/pretraining/logs/metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


def opened(result: RunResult) -> tuple[Any, Any]:
    """Open a checkpoint as others do."""
    assert result.checkpoint is not None
    folder = result.checkpoint
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_a_model_learns_and_its_checkpoint_is_an_ordinary_folder(place: Place) -> None:
    result = place.run("trainer.max_steps=60", "optimizer.lr=1e-2", "data.batch_size=4")
    losses = [float(row["train/loss"]) for row in log(result) if row["train/loss"]]
    assert losses[0] == pytest.approx(math.log(300), abs=0.2)
    assert losses[-1] < losses[0] - 1.5
    model, tokenizer = opened(result)
    inputs = tokenizer("the river", return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert written.shape[1] > inputs["input_ids"].shape[1]


def test_what_is_measured_is_what_the_saved_checkpoint_gives(place: Place) -> None:
    result = place.run("trainer.max_steps=5", "evaluator.perplexity.resamples=2")
    model, tokenizer = opened(result)
    (entry,) = (place.folder / "home" / "examples").iterdir()
    rows = [
        json.loads(line)["text"] for line in (entry / "held_out.jsonl").read_text().splitlines()
    ]
    nats = tokens = size = 0.0
    for text in rows:
        ids = torch.tensor([[0, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        for begin in range(0, ids.shape[1] - 1, 32):
            end = min(begin + 32, ids.shape[1] - 1)
            first = max(0, end - 32)  # the last window is a whole one too, in part context
            part = ids[:, first : end + 1]
            with torch.no_grad():
                log_probs = model(part[:, :-1]).logits.log_softmax(-1)
            found = log_probs.gather(-1, part[:, 1:, None])[:, begin - first :]
            nats -= float(found.sum())
            tokens += found.shape[1]
        size += len(text.encode())
    metrics = result.metrics["pretraining"]["perplexity"]
    assert metrics["nats_per_token"].value == pytest.approx(nats / tokens, rel=1e-5)
    assert metrics["bits_per_byte"].value == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_computing_activations_again_changes_no_number(place: Place) -> None:
    kept = log(place.run("trainer.max_steps=3"))
    again = log(place.run("trainer.max_steps=3", "trainer.gradient_checkpointing=true"))
    for name in ("train/loss", "train/gradient_norm"):
        expected = [float(row[name]) for row in kept if row[name]]
        assert [float(row[name]) for row in again if row[name]] == pytest.approx(expected, rel=1e-5)


def test_the_lineage_tells_the_whole_config_the_data_and_the_versions(place: Place) -> None:
    result = place.run("seed=7")
    assert result.checkpoint is not None
    lineage = json.loads((result.checkpoint / "lineage.json").read_text())
    assert lineage["config"]["seed"] == 7
    assert lineage["parent"] is None
    (source,) = lineage["data"]
    assert source["rows"] + source["held_out"] == 60
    assert lineage["versions"]["ontogeny"] == "0.1.0"
    assert lineage["steps"] == 2


def test_a_finished_model_is_trained_further_with_its_own_tokenizer(place: Place) -> None:
    first = place.run()
    place.overrides = [item for item in place.overrides if not item.startswith(("model", "tok"))]
    second = place.run(f"model.source={first.checkpoint}", "seed=1")
    assert second.checkpoint is not None
    assert second.checkpoint != first.checkpoint
    lineage = json.loads((second.checkpoint / "lineage.json").read_text())
    assert lineage["parent"] == str(first.checkpoint)
    one, two = (opened(each)[1] for each in (first, second))
    assert one.get_vocab() == two.get_vocab()


def test_a_vocabulary_size_beside_a_tokenizer_that_exists_is_an_error(place: Place) -> None:
    first = place.run()
    with pytest.raises(PreflightError, match=r"nothing reads tokenizer.vocab_size;"):
        place.run(f"tokenizer.source={first.checkpoint}")


def test_samples_continue_the_prompts_and_are_the_same_every_time(place: Place) -> None:
    options = ["stage.sample_tokens=6", "stage.prompts=[the,'it was']"]
    first = place.run(*options).stages["pretraining"].samples
    assert [sample.prompt for sample in first] == ["the", "it was"]
    again = place.run(*options, "resume=never").stages["pretraining"].samples
    assert again == first


def test_at_temperature_zero_the_likeliest_token_is_written(place: Place) -> None:
    result = place.run("stage.sample_tokens=4", "stage.prompts=[the]", "stage.temperature=0")
    model, tokenizer = opened(result)
    ids = tokenizer("the", add_special_tokens=False)["input_ids"]
    for _ in range(4):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    expected = tokenizer.decode(ids, skip_special_tokens=True).removeprefix("the")
    assert result.stages["pretraining"].samples[0].text == expected


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_samples_end_where_the_context_of_the_model_does(family: str, place: Place) -> None:
    sizes = (
        ["model=gpt2_tiny", "model.config={n_positions: 32, n_embd: 32, n_layer: 1, n_head: 2}"]
        if family == "gpt2"
        else ["model.config.max_position_embeddings=32"]
    )
    kept = [item for item in place.overrides if family == "llama" or "model.config" not in item]
    place.overrides = kept
    options = ["stage.sample_tokens=100", "stage.prompts=[the,'']"]
    result = place.run(*sizes, *options)
    assert len(result.stages["pretraining"].samples) == 2


def test_without_sample_tokens_nothing_is_written(place: Place) -> None:
    assert place.run("stage.sample_tokens=0").stages["pretraining"].samples == []


@pytest.mark.parametrize("options", [{"sample_tokens": -1}, {"temperature": -0.5}])
def test_options_that_cannot_be_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be 0 or more"):
        Pretraining(**options)  # type: ignore[arg-type]


def test_a_mixture_says_its_shares_of_the_tokens(place: Place) -> None:
    for name in ("a", "b"):
        rows = (f"{name} {number} " + SENTENCE for number in range(40))
        file = place.folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    place.overrides = [*place.overrides, "trainer.max_steps=20"]
    sources = [f"data.sources.{name}.path={place.folder / name}.jsonl" for name in ("a", "b")]
    weights = ["data.sources.a.weight=0.75", "data.sources.b.weight=0.25"]
    config = compose([*place.overrides, *sources, *weights])
    result = run(config, place.folder / "run", place.lines.append)
    said = re.findall(r"shares of tokens: a ([\d.]+)%, b ([\d.]+)%", "\n".join(place.lines))
    assert [float(share) for share in said[0]] == pytest.approx([75, 25], abs=4)  # of 40 rows
    metrics = result.metrics["pretraining"]["perplexity"]
    assert {"bits_per_byte", "bits_per_byte/a", "bits_per_byte/b"} <= metrics.keys()
