"""`check_evaluator`: finite numbers with units, the same every time, and nothing changed."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.plugins import registry
from ontogeny.seeding import seed_everything
from ontogeny.testing.contract import require
from ontogeny.testing.rows import sample_rows
from ontogeny.testing.tensors import equal_batches
from ontogeny.testing.trial import trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Objective, Row


def check_evaluator(
    name: str,
    *,
    rows: Sequence[Row] | None = None,
    stage: str = "pretraining",
    overrides: Sequence[str] = (),
) -> None:
    """Raise ContractError for the first promise that an evaluator breaks.

    `rows` default to samples for the columns of the stage's objective.
    """
    with trial("evaluator", name, stage, overrides) as made:
        evaluator, who = cast("Evaluator", made.component), made.who
        objective = cast("Objective", registry().build(made.config.objective))
        rows = sample_rows(objective.columns) if rows is None else rows
        made.survey(objective, rows)
        data = EvaluationData({"data": list(rows)}, made.config.data)
        bundle = made.bundle()
        bundle.model.eval()
        weights = {key: value.clone() for key, value in bundle.model.state_dict().items()}
        evaluator.begin(made.companions())
        evaluator.check(bundle, data)
        first = _measured(evaluator, bundle, data)
        _check_metrics(who, first)
        again = _measured(evaluator, bundle, data)
        broken = f"two calls measure differently: {first} and then {again}"
        mend = "draw random numbers from a generator with a seed of your own"
        require(first == again, who, broken, mend)
        mend = "an evaluator only looks"
        modes = {module.training for module in bundle.model.modules()}
        require(modes == {False}, who, "the model is left in train mode", mend)
        equal = equal_batches(weights, bundle.model.state_dict())
        require(equal, who, "the weights of the model are changed", mend)


def _measured(evaluator: Evaluator, bundle: Bundle, data: EvaluationData) -> Metrics:
    """Evaluate as the core does: in eval mode, without gradients, seeded."""
    seed_everything("evaluate")
    with torch.no_grad():
        return evaluator.evaluate(bundle, data)


def _check_metrics(who: str, metrics: object) -> None:
    mend = 'return {"accuracy": Metric(0.5, "1", low, high)}'
    require(isinstance(metrics, dict) and bool(metrics), who, "evaluate returns no metrics", mend)
    for name, metric in cast("dict[str, object]", metrics).items():
        kind = type(metric).__name__
        require(isinstance(metric, Metric), who, f"{name} is a {kind}, no Metric", mend)
        _check_metric(who, name, cast("Metric", metric))


def _check_metric(who: str, name: str, metric: Metric) -> None:
    numbers = [each for each in (metric.low, metric.value, metric.high) if each is not None]
    broken = f"{name} is {', '.join(map(str, numbers))}"
    mend = "raise DataError where nothing can be measured"
    require(all(isfinite(each) for each in numbers), who, f"{broken}: not finite", mend)
    broken = f"{name} is outside of its interval: low, value and high are {numbers}"
    require(numbers == sorted(numbers), who, broken, "expected low <= value <= high")
    broken = f"{name} has no unit"
    require(bool(metric.unit), who, broken, 'name it; "1" for a pure number')
