"""A checkpoint under the evaluators of another stage, on the rows that this stage measures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.adapter import Bundle
from ontogeny.companions import Companions
from ontogeny.errors import CheckpointError
from ontogeny.evaluation import Evaluation
from ontogeny.evaluator import EvaluationData
from ontogeny.models import new_weights
from ontogeny.options import Model
from ontogeny.plugins import registry
from ontogeny.precision import resolve_precision
from ontogeny.tokenizers import load_tokenizer, named_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ontogeny.configuration import StageConfig
    from ontogeny.evaluator import Metrics
    from ontogeny.head import Head
    from ontogeny.stage import Stage
    from ontogeny.store import Store


class Remeasurement:
    """A checkpoint, loaded with the head of a stage; raises CheckpointError if it has none such."""

    def __init__(self, config: StageConfig, checkpoint: Path, store: Store) -> None:
        self.config = config
        self.store = store
        rows = cast("Stage", registry().build(config.stage)).measured_rows(config, registry())
        if rows is None:
            msg = "this kind of stage does not say on which rows it measures (Stage.measured_rows)"
            raise CheckpointError(msg)
        self.data = EvaluationData(rows, config.data)
        accelerator = config.trainer.accelerator
        names = {"gpu": "cuda", "auto": "cuda" if torch.cuda.is_available() else "cpu"}
        self.device = names.get(accelerator, accelerator)
        self.precision = resolve_precision(config.precision, self.device)
        self.bundle = self._load(checkpoint)

    def run(self, evaluator: str) -> Metrics:
        """Return what an evaluator of the stage measures."""
        options = {evaluator: self.config.evaluator[evaluator]}
        precision, seed = self.precision, self.config.seed
        evaluation = Evaluation(options, registry(), self.data, precision=precision, seed=seed)
        given = named_tokenizer(self.config) or self.bundle.tokenizer
        evaluation.begin(
            Companions(
                self.config,
                registry(),
                self.store,
                self.bundle.head,
                given,
                self.bundle.tokenizer,
                torch.device(self.device),
            )
        )
        evaluation.check(self.bundle)
        return evaluation.run(self.bundle)[evaluator]

    def _load(self, checkpoint: Path) -> Bundle:
        tokenizer = load_tokenizer("model.source", str(checkpoint))
        head = cast("Head", registry().build(self.config.head))
        options = replace(Model(), source=str(checkpoint), attention=self.config.model.attention)
        model = head.load(options, tokenizer).eval()
        if new := sorted(new_weights(model)):
            name = registry().find(self.config.head)[1].component.name
            msg = f"it has no head {name}: {len(new)} weights are missing, such as {new[0]}"
            raise CheckpointError(msg)
        dtypes = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
        cast("nn.Module", model).to(self.device, dtypes.get(self.precision, torch.float32))
        return Bundle(model, tokenizer, head)
