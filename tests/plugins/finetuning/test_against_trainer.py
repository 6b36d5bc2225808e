"""With the same head and the same order of rows, transformers' Trainer ends at the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from ontogeny import compose, run
from ontogeny.data.mixing import Stream

NAMES = ["earth", "fire", "water"]
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")
SIZE, STEPS, RATE = 4, 24, 1e-3
Rows = Sequence[dict[str, Any]]


class InOrder(Trainer):
    """Takes the rows as they come."""

    def _get_train_sampler(self, *_: object) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def classifier(checkpoint: Path, folder: Path) -> Path:
    """Save a model with a fresh head that both begin with, and without dropout."""
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(checkpoint)
    config.id2label = dict(enumerate(NAMES))
    config.label2id = {name: number for number, name in config.id2label.items()}
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    AutoModelForSequenceClassification.from_pretrained(checkpoint, config=config).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def theirs(start: Path, rows: Rows, folder: Path) -> nn.Module:
    """Return the model after training on these rows, in this order."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModelForSequenceClassification.from_pretrained(start)
    examples = [
        {"input_ids": tokenizer(row["text"])["input_ids"], "labels": NAMES.index(row["label"])}
        for row in rows
    ]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=SIZE,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    collator = DataCollatorWithPadding(tokenizer)
    InOrder(model, arguments, data_collator=collator, train_dataset=examples).train()
    return model


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_weights_after_training_are_those_of_transformers_trainer(
    family: str,
    home: Path,
    tmp_path: Path,
    checkpoints: Callable[[str], Path],
    write_rows: Callable[[str, Rows], Path],
) -> None:
    rows = [
        {"text": f"{'abc'[n % 3] * (1 + n % 7)} row {n}", "label": NAMES[n % 3]} for n in range(40)
    ]
    start = classifier(checkpoints(family), tmp_path / "start")
    settings = [
        *(f"model.source={start}", f"data.path={write_rows('rows.jsonl', rows)}", "evaluator=[]"),
        *("data.validation.share=0", f"data.batch_size={SIZE}", "data.max_length=64"),
        *(f"trainer.max_steps={STEPS}", f"optimizer.lr={RATE}", "scheduler=constant"),
        *("scheduler.warmup_share=0", "precision=32-true", "trainer.accelerator=cpu"),
    ]
    result = run(compose(["stage=finetuning", *settings]), tmp_path / "run")
    ours = AutoModelForSequenceClassification.from_pretrained(result.checkpoint)
    stream = Stream(len(rows), 0, "data")
    order = [rows[stream.locate(position)[0]] for position in range(SIZE * STEPS)]
    reference = theirs(start, order, tmp_path / "trainer").state_dict()
    before = AutoModelForSequenceClassification.from_pretrained(start).state_dict()
    for name, weight in ours.state_dict().items():
        moved = float((reference[name] - before[name]).abs().max())
        torch.testing.assert_close(weight, reference[name], rtol=0, atol=1e-3 * moved + 1e-7)
