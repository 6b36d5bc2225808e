"""The optimiser and its learning-rate schedule, out of their options."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from hydra.utils import instantiate
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ontogeny.errors import ConfigError
from ontogeny.options import Schedule
from ontogeny.schedule import factor

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from ontogeny.lightning_module import MakeOptimizer


def optimizer_factory(optimizer: object, scheduler: object, steps: int) -> MakeOptimizer:
    """Return a function that builds the optimiser and the schedule for a model."""

    def make(model: nn.Module) -> tuple[Optimizer, LRScheduler]:
        built = _optimizer(optimizer, model)
        return built, _scheduler(scheduler, built, steps)

    return make


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split trainable parameters: matrices are decayed, vectors (biases, norms) are not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        msg = "no parameter of the model is trainable; check the adapters"
        raise ConfigError(msg)
    matrices = [parameter for parameter in trained if parameter.dim() >= 2]
    vectors = [parameter for parameter in trained if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _optimizer(options: object, model: nn.Module) -> Optimizer:
    arguments = _arguments(options)
    groups = parameter_groups(model, float(cast("float", arguments.get("weight_decay", 0.0))))
    # Torch refuses unknown arguments itself; a bad value is the user's to mend.
    try:
        return cast("Optimizer", instantiate(arguments, groups, _convert_="object"))
    except Exception as error:
        msg = f"optimizer: {error.__cause__ or error}".replace("\n", " ")
        raise ConfigError(msg) from error


def _scheduler(options: object, optimizer: Optimizer, steps: int) -> LRScheduler:
    if isinstance(options, Schedule):
        return LambdaLR(optimizer, partial(_factor, options, steps))
    try:
        return cast("LRScheduler", instantiate(_arguments(options), optimizer))
    except Exception as error:
        msg = f"scheduler: {error.__cause__ or error}".replace("\n", " ")
        raise ConfigError(msg) from error


def _factor(schedule: Schedule, steps: int, step: int) -> float:
    return factor(schedule, step, steps)


def _arguments(options: object) -> dict[str, object]:
    if is_dataclass(options) and not isinstance(options, type):
        return {item.name: getattr(options, item.name) for item in fields(options)}
    return dict(cast("dict[str, object]", options))
