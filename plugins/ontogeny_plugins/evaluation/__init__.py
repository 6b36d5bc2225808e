"""Stage `evaluation`: evaluators alone, on a checkpoint that is there."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl


@dataclass
class Evaluation:
    """Measures a checkpoint with the evaluators that are named; every row is a row to evaluate."""


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `evaluation`."""
    implementation = "ontogeny_plugins.evaluation.stage:EvaluationStage"
    return [Component("evaluation", config=Evaluation, implementation=implementation)]
