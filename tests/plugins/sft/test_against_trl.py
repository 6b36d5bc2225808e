"""TRL's SFTTrainer as an oracle: the same tokens, the same mask, the same mean loss."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ontogeny.objective import Row
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.sft import SFT
from ontogeny_plugins.sft.objective import SFTObjective

PAIRS: list[Row] = [
    {"prompt": "What is 2 + 2?", "completion": " It is 4."},
    {"prompt": "A longer question, with an ümlaut?", "completion": " Yes, 日本語 and 🙂."},
    {"prompt": "?", "completion": "!"},
]
TALKS: list[Row] = [
    {
        "messages": [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
        * (index + 1)
    }
    for index, row in enumerate(PAIRS)
]


def trainer_of(rows: list[Row], tokenizer: Any, folder: Path, **options: object) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=2, vocab_size=len(tokenizer))
    arguments = SFTConfig(
        str(folder),
        per_device_train_batch_size=len(rows),
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        **options,
    )
    return SFTTrainer(
        LlamaForCausalLM(config),
        arguments,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pairs", "talks"])
def test_the_tokens_the_mask_and_the_mean_loss_are_those_of_trl(kind: str, tmp_path: Path) -> None:
    tokenizer, rows = byte_tokenizer(), {"pairs": PAIRS, "talks": TALKS}[kind]
    if kind == "pairs":
        tokenizer.chat_template = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and its dependencies
        trainer = trainer_of(rows, tokenizer, tmp_path, assistant_only_loss=kind == "talks")
        theirs = trainer.data_collator([trainer.train_dataset[row] for row in range(len(rows))])
        model = trainer.model.eval()
        with torch.no_grad():
            expected = float(trainer.compute_loss(model, dict(theirs)))
    objective = SFTObjective(SFT())
    examples = list(objective.prepare(rows, tokenizer))
    for example, ids, labels in zip(examples, theirs["input_ids"], theirs["labels"], strict=True):
        length = len(example["input_ids"])
        assert np.array_equal(example["input_ids"], ids[:length])
        assert np.array_equal(example["labels"], labels[1 : length + 1])
        assert (labels[length + 1 :] == -100).all()
    with torch.no_grad():
        found = objective.loss(model, objective.collate(examples))
    assert float(found.total / found.weight) == pytest.approx(expected, rel=1e-5)
