"""Objectives that break one promise each."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ontogeny import Component, hookimpl
from ontogeny.data.collation import collate_tokens
from ontogeny.errors import ConfigError
from ontogeny.objective import IGNORED, Batch, Example, Loss, Row

from .working import NextToken, OwnTokens, SomeTokens, components

Tokenizer = PreTrainedTokenizerBase


class DrawsInPrepare(NextToken):
    def prepare(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        for example in super().prepare(rows, tokenizer):
            example["labels"][0] = torch.randint(200, ())
            yield example


class CountsRows(NextToken):
    def prepare(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        for number, example in enumerate(super().prepare(rows, tokenizer)):
            example["labels"][0] = number
            yield example


class ChangesRows(NextToken):
    def prepare(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        for row in rows:
            dict.update(row, text=f"{row['text']}.")
        return super().prepare(rows, tokenizer)


class MakesNothing(NextToken):
    def prepare(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        return []


class UnequalColumns(NextToken):
    def prepare(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        for example in super().prepare(rows, tokenizer):
            if len(example["labels"]) % 2:
                example["odd"] = np.ones(1)
            yield example


class Matrices(NextToken):
    def prepare(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        for example in super().prepare(rows, tokenizer):
            yield {**example, "matrix": np.ones((2, 2))}


class Lists(NextToken):
    def prepare(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Any]:
        for example in super().prepare(rows, tokenizer):
            yield {name: column.tolist() for name, column in example.items()}


class NamedOtherwise(NextToken):
    def prepare(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        for example in super().prepare(rows, tokenizer):
            yield {"tokens": example["input_ids"]}


class ShortLabels(NextToken):
    def prepare(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        for example in super().prepare(rows, tokenizer):
            yield {**example, "labels": example["labels"][:-1]}


class DrawsInCollate(NextToken):
    def collate(self, examples: Sequence[Example]) -> Batch:
        batch = collate_tokens(examples)
        return {**batch, "masked": torch.rand(batch["labels"].shape) < 0.5}


class ChangesExamples(NextToken):
    def collate(self, examples: Sequence[Example]) -> Batch:
        for example in examples:
            example["labels"][0] = IGNORED
        return collate_tokens(examples)


class Arrays(NextToken):
    def collate(self, examples: Sequence[Example]) -> Any:
        return {name: tensor.numpy() for name, tensor in collate_tokens(examples).items()}


class Elsewhere(NextToken):
    def collate(self, examples: Sequence[Example]) -> Batch:
        return {name: tensor.to("meta") for name, tensor in collate_tokens(examples).items()}


class Mean(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        return Loss(loss.total / loss.weight, torch.tensor(1))


class RandomMean(SomeTokens):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        return Loss(loss.total / loss.weight, loss.weight / loss.weight)


class MeanMetric(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        return Loss(loss.total, loss.weight, {"accuracy": loss.metrics["accuracy"] / loss.weight})


class MeanGradient(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        mean = loss.total / loss.weight
        return Loss(loss.total.detach() + mean - mean.detach(), loss.weight)


class BareTensor(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Any:
        return super().loss(model, batch).total


class Vector(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        log_probs_N, _ = self.scores(model, batch)
        return Loss(-log_probs_N, torch.tensor(len(log_probs_N)))


class WholeNumber(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        return Loss(super().loss(model, batch).total, 3)  # type: ignore[arg-type]


class Weightless(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        return Loss(super().loss(model, batch).total, torch.tensor(0))


class NotANumber(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        return Loss(loss.total * float("nan"), loss.weight)


class Detached(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        return Loss(loss.total.detach(), loss.weight)


class Flat(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        return Loss(loss.total.detach() + 0 * loss.total, loss.weight)


class Steep(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        return Loss(loss.total + (0 * loss.total).sqrt(), loss.weight)


class LearnsPadding(NextToken):
    def collate(self, examples: Sequence[Example]) -> Batch:
        batch = collate_tokens(examples)
        return {**batch, "labels": batch["labels"].clamp(min=0)}


class SeesNeighbours(NextToken):
    """Passes `document_ids` on to nobody."""

    def scores(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        hidden = ("document_ids", "position_ids")
        return super().scores(model, {k: v for k, v in batch.items() if k not in hidden})


class Shifts(NextToken):
    packs: ClassVar[bool] = False

    def prepare(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterable[Example]:
        for row in rows:
            ids = np.array(tokenizer.encode(str(row["text"])), dtype=np.int32)
            yield {"input_ids": ids, "labels": ids}

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        shifted_BT = torch.full_like(batch["labels"], IGNORED)
        shifted_BT[:, :-1] = batch["labels"][:, 1:]
        return super().loss(model, {**batch, "labels": shifted_BT})


class OwnGenerator(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        return Loss(loss.total * np.random.default_rng().random(), loss.weight)


class CountsSteps(NextToken):
    """Warms up while it trains, by a count that no training state holds."""

    calls = 0

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        self.calls += model.training
        return Loss(loss.total / (1 + self.calls), loss.weight)


class FailsInTraining(NextToken):
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        if model.training:
            message = "the moon is full"
            raise ConfigError(message)
        return super().loss(model, batch)


class HoldsALambda(NextToken):
    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.function = lambda: None


class NoExperience(OwnTokens):
    def experience(self, policy: nn.Module, batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
        return iter(())


class OtherExperience(OwnTokens):
    def experience(self, policy: nn.Module, batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
        batch = batches[0]
        labels = np.random.default_rng().integers(0, 200, batch["labels"].shape)
        yield [{**batch, "labels": torch.tensor(labels)}]


class WrongExperience(OwnTokens):
    def loss(self, model: nn.Module, batch: Batch) -> Any:
        return copy.copy(batch)


@hookimpl
def ontogeny_objectives() -> list[Component]:
    return components(globals())
