"""Stage `evaluation`: evaluators alone, on a checkpoint that is there."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl
from ontogeny.component import KIND_OF_HEAD, NO_CHECKPOINT


@dataclass
class Evaluation:
    """Measures a checkpoint with the evaluators that are named; every row is a row to evaluate."""


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `evaluation`."""
    implementation = "ontogeny_plugins.evaluation.stage:EvaluationStage"
    takes = (KIND_OF_HEAD,)  # a head with new weights would say something random
    return [Component("evaluation", Evaluation, implementation, takes=takes, gives=NO_CHECKPOINT)]
