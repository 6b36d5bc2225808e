"""The model card: what the lineage knows in the Hub's form, and a licence that is not guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from tests.core.conftest import Finished

from ontogeny.card import model_card

METRIC = {"value": 2.5, "unit": "bits/byte", "low": 2.25, "high": 2.75}
LINEAGE = {
    "stage": "sft",
    "steps": 7,
    "key": "abc",
    "parent": "acme/base-1b",
    "config": {"seed": 3, "optimizer": {"lr": 0.001}, "trainer": {"max_steps": 7, "devices": 2}},
    "metrics": {"perplexity": {"bits_per_byte": METRIC, "bits_per_byte/a|b": METRIC}},
    "data": [{"name": "a|b", "path": "acme/texts", "rows": 9, "held_out": 1, "share": 0.5}],
}


def card_of(lineage: dict[str, object], folder: Path) -> ModelCard:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(config))
    return ModelCard(model_card(lineage, folder))


def test_the_hub_reads_task_base_data_and_metrics(tmp_path: Path) -> None:
    data: Any = card_of(LINEAGE, tmp_path).data
    assert data.pipeline_tag == "text-generation"
    assert data.base_model == "acme/base-1b"
    assert data.datasets == ["acme/texts"]
    (result,) = data.eval_results or []
    assert (result.metric_type, result.metric_value) == ("bits_per_byte", 2.5)
    assert data.license is None


def test_people_read_intervals_data_and_options(tmp_path: Path) -> None:
    text = card_of(LINEAGE, tmp_path).text
    assert "| perplexity/bits_per_byte | 2.5 | 2.25 to 2.75 | bits/byte |" in text
    assert "| a\\|b | acme/texts | 9 | 1 | 50.0% |" in text
    assert "optimizer.lr=0.001" in text
    assert "trainer.max_steps=7" in text
    assert "devices" not in text  # where it ran changes nothing


def test_the_licence_is_said_not_to_be_stated_and_that_of_the_base_is_quoted(
    tmp_path: Path,
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n")
    text = card_of({**LINEAGE, "parent": str(base)}, tmp_path).text
    assert "Not stated." in text
    assert f"The card of {base} declares `apache-2.0`." in text


def test_the_card_of_a_run_is_read_by_the_hubs_own_code(chain_run: Finished) -> None:
    card = ModelCard.load(chain_run.checkpoint("second") / "README.md")
    assert card.data.model_name == "second"
    assert {each.metric_type for each in card.data.eval_results or []} >= {"bits_per_byte"}
    assert "| first | 2 |" in card.text
    assert card.validate is not None


def test_a_checkpoint_without_a_lineage_has_a_card_too(tmp_path: Path) -> None:
    assert card_of({}, tmp_path).text.startswith("\n# checkpoint")
