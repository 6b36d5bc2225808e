"""Fine-tune a decoder here and with `transformers.Trainer`: same settings, same seeds.

A seed decides the head that both begin with, and the order of the rows for both. What is left of
the difference: Trainer's warm-up begins at 0, and rounding, which grows from step to step.

    make demo
    python examples/finetuning/decoder.py outputs/…/stages/pretrain/checkpoint

Raises AssertionError if the mean accuracies are more than 2 points apart.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from statistics import mean
from typing import Any, cast

import torch
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

SHIPPED = "ontogeny_plugins.demo"
TRAIN, TEST = "domain_classification.jsonl.gz", "domain_classification_test.jsonl.gz"
SEEDS = (0, 1, 2)
EPOCHS, BATCH, RATE, LENGTH = 3, 16, 5e-4, 256


class InOrder(Trainer):
    """Takes the rows as they come."""

    def _get_train_sampler(self, *_: object) -> SequentialSampler:
        return SequentialSampler(cast("Any", self.train_dataset))


def with_head(checkpoint: str, seed: int) -> str:
    """Return a folder with the model and a fresh head, drawn from the seed."""
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(checkpoint)
    names = sorted({row["label"] for row in shipped_rows(TRAIN)})
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    folder = Path(f"outputs/decoder-start-{seed}")
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, config=config, dtype=torch.float32
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return str(folder)


def ours(checkpoint: str, seed: int, *overrides: str) -> float:
    """Return the accuracy on the test rows after `stage=finetuning`."""
    settings = [
        f"model.source={checkpoint}",
        f"data.path=pkg://{SHIPPED}/data/{TRAIN}",
        f"data.validation.path=pkg://{SHIPPED}/data/{TEST}",
        f"data.max_length={LENGTH}",
        f"data.batch_size={BATCH}",
        f"optimizer.lr={RATE}",
        f"trainer.max_epochs={EPOCHS}",
        f"seed={seed}",
        "precision=32-true",
        "evaluator.classification.resamples=10",
    ]
    result = run(compose(["stage=finetuning", *settings, *overrides]), f"outputs/decoder-{seed}")
    return result.metrics["finetuning"]["classification"]["accuracy"].value


def theirs(checkpoint: str, seed: int) -> float:
    """Return the accuracy on the test rows after `Trainer.train`."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    train, test = (shipped_rows(name) for name in (TRAIN, TEST))
    order = Stream(len(train), seed, "data")  # `data` is what the source of data.path is called
    train = [train[order.locate(place)[0]] for place in range(EPOCHS * len(train))]
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]

    def examples(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
        texts = [row["text"] for row in rows]
        encoded = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
        pairs = zip(encoded, rows, strict=True)
        return [{"input_ids": ids, "labels": names.index(row["label"])} for ids, row in pairs]

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,  # as many as there are, one after the other
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            learning_rate=RATE,
            lr_scheduler_type="linear",
            warmup_steps=round(0.1 * len(train) / BATCH),
            weight_decay=0.01,
            adam_beta2=0.999,
            max_grad_norm=1.0,
            seed=seed,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        collator = DataCollatorWithPadding(tokenizer)
        trainer = InOrder(model, arguments, data_collator=collator, train_dataset=examples(train))
        trainer.train()
        logits = trainer.predict(cast("Any", examples(test))).predictions
    said = [names[number] for number in cast("Any", logits).argmax(-1)]
    return mean(float(name == row["label"]) for name, row in zip(said, test, strict=True))


def shipped_rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a shipped file."""
    packed = files(SHIPPED).joinpath(f"data/{name}").read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]


def main(checkpoint: str, seeds: tuple[int, ...] = SEEDS) -> None:
    """Print a line for each seed, and check the claim."""
    found: dict[str, list[float]] = {"ours": [], "Trainer": []}
    for seed in seeds:
        start = with_head(checkpoint, seed)
        found["ours"].append(ours(start, seed))
        found["Trainer"].append(theirs(start, seed))
        print(f"seed {seed}: " + ", ".join(f"{who} {each[-1]:.3f}" for who, each in found.items()))
    means = {who: mean(each) for who, each in found.items()}
    print("mean: " + ", ".join(f"{who} {value:.3f}" for who, value in means.items()))
    assert abs(means["ours"] - means["Trainer"]) <= 0.02


if __name__ == "__main__":
    main(sys.argv[1])
