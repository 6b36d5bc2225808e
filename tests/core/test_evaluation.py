"""Evaluators are run in one way: eval mode, no gradients, seeded, and nothing is left changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from ontogeny import DataError, PluginError
from ontogeny.adapter import Bundle
from ontogeny.evaluation import Evaluation, flat, write_metrics
from ontogeny.evaluator import EvaluationData, Metric
from ontogeny.options import Data
from ontogeny.plugins import Registry

PLUGIN = """
import torch
from dataclasses import dataclass
from ontogeny import Component, DataError, hookimpl
from ontogeny.evaluator import Evaluator, Metric

@dataclass
class Look:
    '''What an evaluator sees.'''

@dataclass
class Fail:
    '''One that fails.'''

@dataclass
class Return:
    '''One that returns what it is told.'''
    what: str = "{}"  # a Python expression

@hookimpl
def ontogeny_evaluators():
    return [
        Component("look", config=Look, implementation="looking:Looking"),
        Component("back", config=Return, implementation="looking:Returning"),
        Component("fail", config=Fail, implementation="looking:Failing"),
    ]

class Looking(Evaluator):
    def __init__(self, config):
        pass

    def evaluate(self, bundle, data):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        return {
            "training": Metric(float(bundle.model.training), "1"),
            "gradients": Metric(float(torch.is_grad_enabled()), "1"),
            "drawn": Metric(float(torch.rand(())), "1"),
            "bfloat16": Metric(float(product.dtype == torch.bfloat16), "1"),
        }

class Failing(Looking):
    def check(self, bundle, data):
        raise DataError("no rows")

    def evaluate(self, bundle, data):
        raise RuntimeError("no evaluation")

class Returning(Looking):
    def __init__(self, config):
        self.config = config

    def evaluate(self, bundle, data):
        return eval(self.config.what)
"""


@pytest.fixture
def evaluation(local_plugin: Callable[..., None]) -> Callable[..., Evaluation]:
    local_plugin("looking", PLUGIN)
    registry = Registry()

    def make(*names: str, precision: str = "32-true") -> Evaluation:
        options = {name: registry.get("evaluator", name).component.config() for name in names}
        data = EvaluationData({}, Data())
        return Evaluation(options, registry, data, precision=precision, seed=3)

    return make


@pytest.fixture
def bundle() -> Bundle:
    nothing: Any = None
    return Bundle(nn.Linear(2, 2), nothing, nothing)  # type: ignore[arg-type]


Make = Callable[..., Evaluation]


def test_an_evaluator_sees_a_model_in_eval_mode_without_gradients(
    evaluation: Make, bundle: Bundle
) -> None:
    seen = evaluation("look").run(bundle)["look"]
    assert seen["training"].value == 0
    assert seen["gradients"].value == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_as_before_afterwards(training: bool, evaluation: Make, bundle: Bundle) -> None:
    bundle.model.train(training)
    evaluation("look").run(bundle)
    assert bundle.model.training is training


def test_the_mode_is_as_before_after_a_failure_too(evaluation: Make, bundle: Bundle) -> None:
    bundle.model.train()
    with pytest.raises(RuntimeError, match="no evaluation"):
        evaluation("fail").run(bundle)
    assert bundle.model.training


def test_what_was_drawn_before_does_not_change_what_is_measured(
    evaluation: Make, bundle: Bundle
) -> None:
    made = evaluation("look")
    first = made.run(bundle)
    torch.rand(5)
    assert made.run(bundle) == first


def test_products_are_in_the_precision_of_the_run(evaluation: Make, bundle: Bundle) -> None:
    assert evaluation("look", precision="bf16-mixed").run(bundle)["look"]["bfloat16"].value == 1
    assert evaluation("look").run(bundle)["look"]["bfloat16"].value == 0


def test_what_would_fail_after_the_training_is_told_before_it(
    evaluation: Make, bundle: Bundle
) -> None:
    evaluation("look").check(bundle)
    with pytest.raises(DataError, match="no rows"):
        evaluation("look", "fail").check(bundle)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("None", "evaluator back returns None; expected metrics by name"),
        ("{}", "evaluator back returns {}; expected metrics by name"),
        ("{'accuracy': 0.5}", "evaluator back returns 0.5 as 'accuracy'; expected metrics by"),
        ("{1: Metric(1, '1')}", "evaluator back returns Metric"),
    ],
)
def test_what_is_no_metric_is_an_error_that_names_the_evaluator(
    what: str, words: str, evaluation: Make, bundle: Bundle
) -> None:
    made = evaluation("back")
    made.evaluators["back"].config.what = what  # type: ignore[attr-defined]
    with pytest.raises(PluginError) as caught:
        made.run(bundle)
    assert words in str(caught.value)


def test_numbers_of_numpy_and_tensors_become_plain_ones_that_a_file_can_hold() -> None:
    metric = Metric(np.float32(0.5), "1", np.float64(0.25), cast("float", torch.tensor(1)))
    assert json.dumps(metric.as_dict()) == '{"value": 0.5, "unit": "1", "low": 0.25, "high": 1.0}'


def test_metrics_are_flattened_for_logs() -> None:
    metrics = {"perplexity": {"bits_per_byte": Metric(2.0, "bits/byte"), "n": Metric(1.0, "1")}}
    assert flat(metrics) == {
        "evaluation/perplexity/bits_per_byte": 2.0,
        "evaluation/perplexity/n": 1.0,
    }


def test_the_file_of_metrics_has_values_units_and_intervals(tmp_path: Path) -> None:
    metrics = {"perplexity": {"bits_per_byte": Metric(2.0, "bits/byte", 1.5, 2.5)}}
    write_metrics(tmp_path / "metrics.json", {"pretraining": metrics})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "pretraining": {
            "perplexity": {
                "bits_per_byte": {"value": 2.0, "unit": "bits/byte", "low": 1.5, "high": 2.5}
            }
        }
    }


def test_an_evaluator_is_built_by_the_type_of_its_options(evaluation: Make) -> None:
    built = evaluation("look").evaluators
    assert {name: type(each).__name__ for name, each in built.items()} == {"look": "Looking"}
