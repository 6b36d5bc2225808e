"""The optimiser and its learning-rate schedule, out of their options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
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

    from ontogeny.adapter import ParameterGroup
    from ontogeny.lightning_module import MakeOptimizer


def optimizer_factory(
    optimizer: object, scheduler: object, steps: int, own: Sequence[ParameterGroup] = ()
) -> MakeOptimizer:
    """Return a function that builds the optimiser and the schedule for a model.

    What is trained beside it (`Objective.auxiliary`) has the same rates.
    `own` are the groups of the adapters: of two that hold a parameter, the later one decides.
    """

    def make(model: nn.Module, auxiliary: nn.Module | None = None) -> tuple[Optimizer, LRScheduler]:
        built = _optimizer(optimizer, model, own, auxiliary)
        return built, _scheduler(scheduler, built, steps)

    return make


@dataclass(frozen=True)
class Rates:
    """The learning rate and the weight decay of what no adapter treats in its own way."""

    lr: float | None  # None: the optimiser's own default
    weight_decay: float
    embedding_lr: float | None = None  # of input and output embeddings; None: lr


def parameter_groups(
    model: nn.Module,
    rates: Rates,
    own: Sequence[ParameterGroup] = (),
    auxiliary: nn.Module | None = None,
) -> list[dict[str, object]]:
    """Split trainable parameters by learning rate and weight decay.

    Matrices are decayed, vectors (biases, norms) are not. Groups come in the order in which the
    model has them, so that a training state finds them again.
    """
    both = [model] if auxiliary is None else [model, auxiliary]
    weights = [parameter for module in both for parameter in module.parameters()]
    trained = [parameter for parameter in weights if parameter.requires_grad]
    if not trained:
        msg = "no parameter of the model is trainable; check the adapters"
        raise ConfigError(msg)
    chosen = {parameter: group for group in own for parameter in group.parameters}
    embeddings = _embeddings(model) if rates.embedding_lr is not None else set()
    if rates.embedding_lr is not None and embeddings.isdisjoint(trained):
        msg = (
            f"optimizer.embedding_lr is {rates.embedding_lr}, but the adapters leave no matrix of "
            f"embeddings to train: leave it out, or let one of them train the embeddings"
        )
        raise ConfigError(msg)
    groups: dict[tuple[float | None, float], list[nn.Parameter]] = {}
    for parameter in trained:
        lr = rates.embedding_lr if parameter in embeddings else rates.lr
        decay = rates.weight_decay if parameter.dim() >= 2 else 0.0
        if (group := chosen.get(parameter)) is not None:
            lr = _scaled(lr, group.lr_ratio)
            decay = decay if group.weight_decay is None else group.weight_decay
        groups.setdefault((lr, decay), []).append(parameter)
    main = sorted(groups, key=lambda key: key[0] != rates.lr)  # the log shows the first group's
    return [
        {"params": groups[lr, decay], "weight_decay": decay, **({} if lr is None else {"lr": lr})}
        for lr, decay in main
    ]


def _scaled(lr: float | None, ratio: float) -> float | None:
    if lr is None and ratio != 1.0:
        msg = "optimizer.lr is not set, but an adapter trains some weights at a multiple of it"
        raise ConfigError(msg)
    return None if lr is None else lr * ratio


def _embeddings(model: nn.Module) -> set[nn.Parameter]:
    found = set()
    for get in ("get_input_embeddings", "get_output_embeddings"):
        layer = getattr(model, get, lambda: None)()
        if layer is not None:
            found.add(cast("nn.Parameter", layer.weight))
    return found


def _optimizer(
    options: object,
    model: nn.Module,
    own: Sequence[ParameterGroup],
    auxiliary: nn.Module | None = None,
) -> Optimizer:
    arguments = _arguments(options)
    rates = Rates(
        lr=cast("float | None", arguments.get("lr")),
        weight_decay=float(cast("float", arguments.get("weight_decay", 0.0))),
        embedding_lr=cast("float | None", arguments.pop("embedding_lr", None)),
    )
    groups = parameter_groups(model, rates, own, auxiliary)
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
