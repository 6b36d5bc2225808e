"""Evaluation alone: a checkpoint, rows, and what the evaluators say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.adapter import Bundle
from ontogeny.companions import Companions
from ontogeny.decisions import Decisions
from ontogeny.errors import ConfigError
from ontogeny.evaluation import Evaluation
from ontogeny.evaluator import EvaluationData
from ontogeny.liveness import unread
from ontogeny.models import longest_context, new_weights
from ontogeny.stage import Stage, StageContext, StageResult
from ontogeny.tokenizers import named_tokenizer
from ontogeny_plugins.evaluation.rows import AllRows

if TYPE_CHECKING:
    from torch import nn

    from ontogeny.configuration import StageConfig
    from ontogeny.evaluator import Evaluator
    from ontogeny.head import Head
    from ontogeny.objective import Row
    from ontogeny.plugins import Registry
    from ontogeny_plugins.evaluation import Evaluation as Options

# The whole model is in these types; in mixed precision its weights stay float32.
DTYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
# Keys that nothing has read before the evaluators run: they will.
READ_LATER = ("evaluator.", "data.max_length.", "logger.", "callbacks.")


class EvaluationStage(Stage):
    """Loads `model.source` with the stage's head, and runs the evaluators on all rows."""

    def __init__(self, config: Options) -> None:
        self.config = config

    def run(self, context: StageContext) -> StageResult:
        """Return metrics and no checkpoint."""
        config = context.config
        self._require_all(context)
        device = _device(config.trainer.accelerator)
        precision = Decisions(context.folder).numbers(config, device)
        evaluation = Evaluation(
            config.evaluator,
            context.registry,
            EvaluationData({}, config.data),
            precision=precision,
            seed=config.seed,
        )
        rows = AllRows(config.data, evaluation.evaluators, context.folder, context.announce)
        evaluation.data = EvaluationData(rows.read(), config.data)
        bundle = self._load(context, device, precision)
        evaluation.begin(_companions(context, bundle, torch.device(device)))
        evaluation.check(bundle)
        if config.preflight:
            self._require_read_keys(context)
        return StageResult(metrics=evaluation.run(bundle))

    def measured_rows(
        self, config: StageConfig, registry: Registry
    ) -> Mapping[str, Sequence[Row]] | None:
        """Return all rows of the data."""
        evaluators = {
            name: cast("Evaluator", registry.build(options))
            for name, options in config.evaluator.items()
        }
        with TemporaryDirectory() as rejected:
            return AllRows(config.data, evaluators, Path(rejected), lambda _: None).read()

    def _require_all(self, context: StageContext) -> None:
        """Raise ConfigError for what the stage cannot do without, or has no use for."""
        config = context.config
        if not config.evaluator:
            known = ", ".join(sorted(context.registry.components["evaluator"]))
            msg = f"evaluator is empty, so there is nothing to measure; choose some of {known}"
            raise ConfigError(msg)
        if config.model.source is None:
            msg = (
                "model.source is not set; evaluation measures a checkpoint folder or Hub name "
                "(in a lifecycle, that of the stage before)"
            )
            raise ConfigError(msg)
        if config.adapter:
            msg = (
                f"adapter is {', '.join(config.adapter)}, but an evaluation trains nothing; leave "
                f"it out (a checkpoint that holds an adapter is opened with it)"
            )
            raise ConfigError(msg)

    def _load(self, context: StageContext, device: str, precision: str) -> Bundle:
        """Return the model on its device, in eval mode."""
        config = context.config
        tokenizer = named_tokenizer(config)
        assert tokenizer is not None  # noqa: S101  there is a source
        head = cast("Head", context.registry.build(config.head))
        model = head.load(config.model, tokenizer).eval()
        if new := sorted(new_weights(model)):
            msg = (
                f"model.source is {config.model.source!r}, which lacks {len(new)} weights of this "
                f"head, such as {new[0]}: what it says would be random; train it first, or choose "
                f"the head that it has, as head=causal_lm"
            )
            raise ConfigError(msg)
        cast("nn.Module", model).to(device, DTYPES.get(precision, torch.float32))
        context.announce(f"model: {config.model.source}, on {device} in {precision}")
        longest, length = longest_context(model), config.data.max_length
        if longest is not None and length > longest:
            msg = (
                f"data.max_length is {length}, longer than the context of the model: {longest} "
                f"(max_position_embeddings)"
            )
            raise ConfigError(msg)
        return Bundle(model, tokenizer, head)

    def _require_read_keys(self, context: StageContext) -> None:
        keys = [key for key in context.overrides if not f"{key}.".startswith(READ_LATER)]
        if dead := unread(context.config, keys):
            msg = (
                f"nothing reads {', '.join(dead)} in an evaluation; leave it out, or set "
                f"preflight=off"
            )
            raise ConfigError(msg)


def _companions(context: StageContext, bundle: Bundle, device: torch.device) -> Companions:
    config, registry, store = context.config, context.registry, context.store
    tokenizer = bundle.tokenizer
    return Companions(config, registry, store, bundle.head, tokenizer, tokenizer, device)


def _device(accelerator: str) -> str:
    """Return the device type that an accelerator name stands for on this machine."""
    names = {"gpu": "cuda", "cuda": "cuda", "cpu": "cpu", "mps": "mps"}
    return names.get(accelerator, "cuda" if torch.cuda.is_available() else "cpu")
