"""Components that keep every promise; those in the files beside it break one each."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, is_dataclass, make_dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from omegaconf import MISSING
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ontogeny import Component, hookimpl
from ontogeny.adapter import Adapter, Bundle
from ontogeny.attention import model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.objective import (
    IGNORED,
    Batch,
    Example,
    LongExamples,
    Loss,
    Objective,
    OnlineObjective,
    Row,
)


class Built:
    """Keeps its options, as every implementation does."""

    def __init__(self, config: object) -> None:
        self.config = config


class NextToken(Built, Objective):
    columns: ClassVar[Sequence[Sequence[str]]] = (("text",),)
    long_examples: ClassVar[LongExamples] = "split"
    packs: ClassVar[bool] = True

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        for row in rows:
            ids = np.array(tokenizer.encode(str(row["text"])), dtype=np.int32)
            yield {"input_ids": ids[:-1], "labels": ids[1:]}

    def collate(self, examples: Sequence[Example]) -> Batch:
        return collate_tokens(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        log_probs_N, hits_N = self.scores(model, batch)
        weight = torch.tensor(len(log_probs_N))
        return Loss(-log_probs_N.sum(), weight, {"accuracy": hits_N.sum()})

    def scores(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return log p of every label, and whether it is the likeliest token."""
        labelled_BT = batch["labels"] != IGNORED
        logits_NV = model(**model_inputs(model, batch)).logits[labelled_BT].float()
        labels_N = batch["labels"][labelled_BT]
        log_probs_NV = logits_NV.log_softmax(-1)
        hits_N = (logits_NV.argmax(-1) == labels_N).float()
        return log_probs_NV.gather(-1, labels_N[:, None])[:, 0], hits_N


class SomeTokens(NextToken):
    """Draws half of the labels anew for each batch."""

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        log_probs_N, _ = self.scores(model, batch)
        drawn_N = (torch.rand(len(log_probs_N)) < 0.5).float()
        return Loss(-(drawn_N * log_probs_N).sum(), drawn_N.sum().clamp(min=1e-3))


class OwnTokens(NextToken, OnlineObjective):
    """Learns the tokens that the model itself draws."""

    def experience(self, policy: nn.Module, batches: Sequence[Batch]) -> Iterable[Sequence[Batch]]:
        update = []
        for batch in batches:
            with torch.no_grad():
                logits_BTV = policy(**model_inputs(policy, batch)).logits
            drawn_BT = torch.distributions.Categorical(logits=logits_BTV).sample()
            update.append({**batch, "labels": drawn_BT})
        yield update


class LastLayer(Built, Adapter):
    """Trains nothing but the vectors of the model."""

    def apply(self, bundle: Bundle) -> Bundle:
        for parameter in bundle.model.parameters():
            parameter.requires_grad_(parameter.dim() < 2)
        return bundle

    def settle(self, bundle: Bundle) -> Bundle:
        return bundle


class WordCount(Built, Evaluator):
    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        counts = [len(str(row["text"]).split()) for rows in data.rows.values() for row in rows]
        return {"words": Metric(float(np.mean(counts)), "words/row", min(counts), max(counts))}


@dataclass
class Shared:
    """Options that several have."""

    steps: int | None = None  # how many


@dataclass
class NextTokenOptions(Shared):
    """Every kind of field that options may have."""

    # a comment above a field
    scale: float = 1.0
    names: list[str] = field(default_factory=list)  # words
    pairs: dict[str, float] = field(default_factory=dict)  # numbers by name
    inner: Shared = field(default_factory=Shared)


@dataclass
class WordCountOptions:
    """A field that the user has to set."""

    language: str = MISSING  # of the words


def components(module: dict[str, Any], *classes: type) -> list[Component]:
    """Return a component for each class (else all that the module defines), without options."""
    name = module["__name__"]
    public = [each for key, each in module.items() if not key.startswith("_")]
    defined = [each for each in public if getattr(each, "__module__", "") == name]
    chosen = classes or [each for each in defined if isinstance(each, type)]
    return [
        Component(each.__name__.lower(), _options(each), f"{name}:{each.__name__}")
        for each in chosen
        if not is_dataclass(each)
    ]


@cache
def _options(implementation: type) -> type:
    """Return options without fields; they pickle, since their module holds them."""
    module = sys.modules[implementation.__module__]
    namespace = {"__doc__": "No fields.", "__module__": module.__name__}
    made = make_dataclass(f"{implementation.__name__}Options", [], namespace=namespace)
    setattr(module, made.__name__, made)
    return made


@hookimpl
def ontogeny_objectives() -> list[Component]:
    own = Component("nexttoken", NextTokenOptions, "contract_plugins.working:NextToken")
    return [own, *components(globals(), SomeTokens, OwnTokens)]


@hookimpl
def ontogeny_adapters() -> list[Component]:
    return components(globals(), LastLayer)


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    return [Component("wordcount", WordCountOptions, "contract_plugins.working:WordCount")]
