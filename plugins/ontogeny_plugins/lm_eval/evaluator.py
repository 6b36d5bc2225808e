"""lm-evaluation-harness on our model: its tasks, its numbers, its standard errors."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from ontogeny.errors import ConfigError
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.generation import require_generation
from ontogeny.intervals import Z, ratio_interval
from ontogeny.spelling import suggestion
from ontogeny_plugins.lm_eval import KEY

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from ontogeny.adapter import Bundle
    from ontogeny_plugins.lm_eval import LMEval
    from ontogeny_plugins.lm_eval.harness import HarnessModel

UNITS = {"bits_per_byte": "bits/byte"}  # all others are pure numbers
# Of nats for each word or byte; the harness has no standard error of these.
OF_TEXT: Mapping[str, Callable[[float], float]] = {
    "bits_per_byte": lambda nats: nats / math.log(2),
    "byte_perplexity": math.exp,
    "word_perplexity": math.exp,
}
Sample = Mapping[str, object]  # what a task says of a row: its metrics, and the filter they are of


class LMEvalEvaluator(Evaluator):
    """Hands the model to the harness, and takes its results."""

    columns: ClassVar[Sequence[Sequence[str]]] = ()

    def __init__(self, config: LMEval) -> None:
        self.config = config
        self._tasks: TaskManager | None = None

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise ConfigError without the package, for unknown tasks, and for an unfit model."""
        del data
        require_generation(bundle.model, KEY)
        known = set(self._manager().all_tasks)
        for task in self.config.tasks:
            if task not in known:
                msg = (
                    f"{KEY}.tasks names {task!r}{suggestion(task, known)}, which is none of the "
                    f"{len(known)} tasks of the package and of {KEY}.path ({self.config.path})"
                )
                raise ConfigError(msg)
        if self.config.chat_template and not bundle.tokenizer.chat_template:
            msg = (
                f"{KEY}.chat_template is true, but the tokenizer has none; set it to false, or "
                f"tokenizer.source to one that has"
            )
            raise ConfigError(msg)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics of every task and group, as `task/metric` or `task/metric/filter`."""
        del data
        options = self.config
        from lm_eval import simple_evaluate  # noqa: PLC0415  optional

        with _one_process(), _quiet():
            found = simple_evaluate(
                model=_harness_model(bundle, options),
                tasks=list(options.tasks),
                task_manager=self._manager(),
                num_fewshot=options.k,
                limit=options.limit,
                batch_size=options.batch_size,
                bootstrap_iters=options.resamples,
                apply_chat_template=options.chat_template,
                log_samples=True,
                random_seed=options.seed,
                numpy_random_seed=options.seed,
                torch_random_seed=options.seed,
                fewshot_random_seed=options.seed,
            )
        results = cast("Mapping[str, Mapping[str, object]]", found["results"])
        samples = cast("Mapping[str, Sequence[Sample]]", found["samples"])
        rises = cast("Mapping[str, Mapping[str, bool]]", found["higher_is_better"])
        metrics: Metrics = {}
        for task, values in results.items():
            for name, metric in _metrics(values, samples.get(task, ()), options.resamples):
                higher = rises.get(task, {}).get(name.partition("/")[0])
                less = None if higher is None else not higher
                metrics[f"{task}/{name}"] = replace(metric, less_is_better=less)
        return metrics

    def _manager(self) -> TaskManager:
        """Return the tasks that there are: those of the package only where they are asked for.

        To look through the thousands of files of the package takes half a minute.
        """
        if self._tasks is None:
            path = self.config.path
            own = _task_manager(path, include_defaults=False)
            has_all = set(self.config.tasks) <= set(own.all_tasks)
            self._tasks = own if has_all else _task_manager(path, include_defaults=True)
        return self._tasks


def _task_manager(path: str | None, *, include_defaults: bool) -> TaskManager:
    """Return the tasks of a folder and of the package; raise ConfigError without one of them."""
    if path is not None and not Path(path).is_dir():
        msg = f"{KEY}.path is {path!r}, which is no folder; expected one with task files (.yaml)"
        raise ConfigError(msg)
    try:
        from lm_eval.tasks import TaskManager  # noqa: PLC0415  optional
    except ImportError as error:
        msg = (
            f"evaluator=[lm_eval] needs the package lm_eval, which cannot be imported ({error}); "
            f"pip install 'ontogeny[lm_eval]'"
        )
        raise ConfigError(msg) from error
    return TaskManager(include_path=path, include_defaults=include_defaults)


def _harness_model(bundle: Bundle, options: LMEval) -> HarnessModel:
    """Wrap the model; logits become float32 before their softmax, as everywhere here."""
    from ontogeny_plugins.lm_eval.harness import HarnessModel  # noqa: PLC0415  optional

    device = bundle.model.device.type
    mixed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return HarnessModel(
        pretrained=bundle.model,
        tokenizer=copy.deepcopy(bundle.tokenizer),  # it may be given a padding token
        batch_size=options.batch_size,
        max_length=options.max_length,
        mixed_precision_dtype=mixed,  # the harness sets autocast anew
        softmax_dtype=torch.float32,
    )


def _metrics(
    values: Mapping[str, object], samples: Sequence[Sample], resamples: int
) -> Iterator[tuple[str, Metric]]:
    """Yield what the harness measured of a task, with 95 % intervals.

    They are those of its standard errors; of texts, the bootstrap's over rows.
    """
    for key, value in values.items():
        name, comma, chosen = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = values.get(f"{name}_stderr,{chosen}")
        half = Z * float(error) if isinstance(error, int | float) else None
        low, high = (None, None) if half is None else (value - half, value + half)
        of_rows = [each[name] for each in samples if each["filter"] == chosen and name in each]
        if half is None and name in OF_TEXT and of_rows:
            low, high = _text_interval(name, of_rows, resamples)
        unit = UNITS.get(name, "1")
        filtered = "" if chosen == "none" else f"/{chosen}"
        yield f"{name}{filtered}", Metric(float(value), unit, low, high)


def _text_interval(name: str, rows: Sequence[object], resamples: int) -> tuple[float, float]:
    """Return the interval of a metric whose rows are log-likelihoods with words or bytes."""
    sums_N2 = np.array(rows, float)
    _, low, high = ratio_interval(-sums_N2[:, 0], sums_N2[:, 1], resamples)
    return OF_TEXT[name](low), OF_TEXT[name](high)


@contextmanager
def _one_process() -> Iterator[None]:
    """Keep the harness from forking a process that has threads, for its bootstrap."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the harness says about every default that it takes."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
