"""Evaluators, run on a bundle: in the loop and at the end, always in the same way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.errors import PluginError
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.folders import write_text
from ontogeny.precision import autocast
from ontogeny.seeding import seed_everything

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny.plugins import Registry


class Evaluation:
    """The evaluators of a stage with their data; `run` measures a bundle as it is now."""

    def __init__(
        self,
        options: Mapping[str, object],
        registry: Registry,
        data: EvaluationData,
        *,
        precision: str,
        seed: int,
    ) -> None:
        self.evaluators = {
            name: cast("Evaluator", registry.build(option)) for name, option in options.items()
        }
        self.data = data
        self.precision = precision
        self.seed = seed

    def begin(self, companions: Companions) -> None:
        """Let evaluators have the other models that they need."""
        for evaluator in self.evaluators.values():
            evaluator.begin(companions)

    def check(self, bundle: Bundle) -> None:
        """Raise what an evaluator finds wrong before hours are spent on training."""
        for evaluator in self.evaluators.values():
            evaluator.check(bundle, self.data)

    def run(self, bundle: Bundle) -> dict[str, Metrics]:
        """Return the metrics of every evaluator; the model's mode is as before afterwards."""
        model = bundle.model
        training = model.training
        model.eval()
        device = next(model.parameters()).device.type
        results: dict[str, Metrics] = {}
        try:
            for name, evaluator in self.evaluators.items():
                seed_everything(self.seed, "evaluate", name)
                with torch.no_grad(), autocast(self.precision, device):
                    results[name] = _required(name, evaluator.evaluate(bundle, self.data))
        finally:
            model.train(training)
        return results


def _required(evaluator: str, found: object) -> Metrics:
    """Return what an evaluator has found; raise PluginError where these are no metrics."""
    wanted = 'expected metrics by name, such as {"accuracy": Metric(0.5, "1", low, high)}'
    if not isinstance(found, dict) or not found:
        msg = f"evaluator {evaluator} returns {found!r}; {wanted}"
        raise PluginError(msg)
    for name, metric in found.items():
        if not isinstance(name, str) or not isinstance(metric, Metric):
            msg = f"evaluator {evaluator} returns {metric!r} as {name!r}; {wanted}"
            raise PluginError(msg)
    return cast("Metrics", found)


def flat(metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """Return metrics as `evaluation/<evaluator>/<metric>`, for logs."""
    return {
        f"evaluation/{evaluator}/{name}": metric.value
        for evaluator, values in metrics.items()
        for name, metric in values.items()
    }


def write_metrics(file: Path, stages: Mapping[str, Mapping[str, Metrics]]) -> None:
    """Write metrics.json: stage, evaluator, metric, then value, unit, low and high."""
    content = {
        stage: {
            evaluator: {name: metric.as_dict() for name, metric in values.items()}
            for evaluator, values in evaluators.items()
        }
        for stage, evaluators in stages.items()
    }
    write_text(file, json.dumps(content, indent=2) + "\n")
