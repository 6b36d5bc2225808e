"""Evaluators that break one promise each."""

from typing import Any

import numpy as np

from ontogeny import Component, hookimpl
from ontogeny.adapter import Bundle
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics

from .working import Built, components


class Working(Built, Evaluator):
    metric = Metric(0.5, "1", 0.25, 0.75)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Any:
        return {"accuracy": self.metric}


class Nothing(Working):
    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        return {}


class BareNumber(Working):
    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Any:
        return {"accuracy": 0.5}


class NotANumber(Working):
    metric = Metric(float("nan"), "1")


class InfiniteInterval(Working):
    metric = Metric(0.5, "1", 0.0, float("inf"))


class Unitless(Working):
    metric = Metric(0.5, "")


class OutsideOfItsInterval(Working):
    metric = Metric(0.5, "1", 0.6, 0.7)


class Draws(Working):
    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        return {"accuracy": Metric(np.random.default_rng().random(), "1")}


class Trains(Working):
    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        next(bundle.model.parameters()).add_(1)
        return super().evaluate(bundle, data)  # type: ignore[no-any-return]


class LeavesTrainMode(Working):
    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        bundle.model.base_model.train()
        return super().evaluate(bundle, data)  # type: ignore[no-any-return]


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    return components(globals())
