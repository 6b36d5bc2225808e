"""The Lightning module: one batch of the loader is one optimiser step (several, when online)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import lightning as L
import torch
from torch import Tensor, nn

from ontogeny.errors import NonFiniteError
from ontogeny.objective import Batch, Loss, Objective, OnlineObjective
from ontogeny.seeding import seed_everything

if TYPE_CHECKING:
    from torch.nn.parallel import DistributedDataParallel
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

MakeOptimizer = Callable[[nn.Module, nn.Module | None], tuple["Optimizer", "LRScheduler"]]


class TrainingModule(L.LightningModule):
    """Runs an objective on a model; the only place that divides a loss by its weight."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        make_optimizer: MakeOptimizer,
        *,
        seed: int,
        clip: float | None,
        auxiliary: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.auxiliary = auxiliary  # trained beside the model
        self.objective = objective
        self.consumed = 0  # steps of data taken; Lightning's counters depend on where it saved
        self.ended = False  # before its last step, by what an evaluation has found
        self.record: Callable[[int, dict[str, Tensor | float]], None] = lambda *_: None
        self._make_optimizer = make_optimizer
        self._seed = seed
        self._clip = clip
        self._non_finite: Tensor | None = None  # on a GPU: looked at when the log is written

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        """Build the optimiser and its schedule."""
        optimizer, scheduler = self._make_optimizer(self.model, self.auxiliary)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_fit_start(self) -> None:
        """Set train mode: transformers loads models in eval mode, and Lightning leaves them so."""
        self.train()

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Add our own count of steps to the training state."""
        checkpoint["consumed"], checkpoint["ended"] = self.consumed, self.ended

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Take our own count of steps out of the training state."""
        self.consumed = int(cast("int", checkpoint["consumed"]))
        self.ended = bool(checkpoint["ended"])

    def training_step(self, batches: Sequence[Batch], _: int) -> None:
        """Do the optimiser step, or steps, that one item of the loader stands for."""
        step = self.consumed
        for number, update in enumerate(self._updates(batches, step)):
            # Weights that were cast to few bits without gradients would stay so in the update.
            torch.clear_autocast_cache()
            self._update(update, step, number)
        cast("LRScheduler", self.lr_schedulers()).step()
        self.consumed = step + 1

    def check_finite(self) -> None:
        """Raise NonFiniteError if a step since the last call had a NaN, or the weights have one.

        A step with a NaN was not applied, but a finite gradient can be too large for the weights.
        """
        if self._non_finite is not None and bool(self._non_finite):
            raise NonFiniteError(_non_finite_message(f"before step {self.consumed}"))
        self._non_finite = None
        trained = (weights for weights in self.parameters() if weights.requires_grad)
        if not all(bool(torch.isfinite(weights).all()) for weights in trained):
            msg = f"the weights are not finite after step {self.consumed - 1}; lower optimizer.lr"
            raise NonFiniteError(msg)

    def _updates(self, batches: Sequence[Batch], step: int) -> Iterable[Sequence[Batch]]:
        if not isinstance(self.objective, OnlineObjective):
            return [batches]
        seed_everything(self._seed, "experience", step, self.global_rank)
        return self.objective.experience(self.model, batches)

    def _update(self, batches: Sequence[Batch], step: int, number: int) -> None:
        """Accumulate gradients of sums, divide them by the weight of the whole step, and step."""
        sums = _Sums(self.device)
        for index, batch in enumerate(batches):
            seed_everything(self._seed, "step", step, number, index, self.global_rank)
            loss = self.objective.loss(self.model, batch)
            with self._synchronised(last=index == len(batches) - 1):
                self.manual_backward(loss.total)
            sums.add(loss)
        self._over_ranks(sums)
        if self._exchanges_itself:
            self._average_gradients()
        self._step(sums, step)

    def _step(self, sums: _Sums, step: int) -> None:
        weight = sums.weights["loss"].clamp(min=1)
        optimizer = cast("Optimizer", self.optimizers(use_pl_optimizer=True))
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        # Ranks have averaged their gradients; a mean over ranks of sums is a sum / world.
        scale = self.trainer.world_size / weight
        norm = torch.nn.utils.get_total_norm(gradients) * scale
        if self._clip is not None:
            scale = scale * (self._clip / (norm + 1e-6)).clamp(max=1)
        self._guard(optimizer, torch.isfinite(norm) & torch.isfinite(sums.totals["loss"]), step)
        torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))
        lr = optimizer.param_groups[0]["lr"]
        optimizer.step()
        self._tell_of_gradients(optimizer)
        optimizer.zero_grad(set_to_none=True)
        logged = {f"train/{name}": value for name, value in sums.means().items()}
        self.record(step, {**logged, "train/gradient_norm": norm, "train/lr": lr})

    def _tell_of_gradients(self, optimizer: Optimizer) -> None:
        """Call the hook that Lightning calls only when it optimises by itself."""
        for callback in cast("list[L.Callback]", self.trainer.callbacks):  # type: ignore[attr-defined]
            callback.on_before_zero_grad(self.trainer, self, optimizer)

    def _guard(self, optimizer: Optimizer, finite: Tensor, step: int) -> None:
        """Keep a NaN out of the weights: at once on a CPU, without a synchronisation on a GPU."""
        inner = cast("Optimizer", getattr(optimizer, "optimizer", optimizer))
        if self.device.type == "cpu" or not inner.defaults.get("fused"):
            if not bool(finite):
                raise NonFiniteError(_non_finite_message(f"at step {step}"))
            return
        # Fused kernels skip the update where this is 1.
        vars(inner)["found_inf"] = (~finite).float()
        bad = ~finite
        self._non_finite = bad if self._non_finite is None else self._non_finite | bad

    def _over_ranks(self, sums: _Sums) -> None:
        """Add what all ranks have summed."""
        if self.trainer.world_size == 1:
            return
        both = [*sums.totals.values(), *sums.weights.values()]
        stacked = torch.stack([value.float() for value in both])
        stacked = cast("Tensor", self.trainer.strategy.reduce(stacked, reduce_op="sum"))
        totals, weights = stacked.chunk(2)
        sums.totals = dict(zip(sums.totals, totals, strict=True))
        sums.weights = dict(zip(sums.weights, weights, strict=True))

    @property
    def _exchanges_itself(self) -> bool:
        """Whether gradients are exchanged here: DDP does it for one update in a step alone."""
        several = isinstance(self.objective, OnlineObjective) and self.trainer.world_size > 1
        return several and hasattr(self.trainer.strategy.model, "no_sync")

    def _average_gradients(self) -> None:
        """Average the gradients over the ranks; one that a rank lacks is 0 there."""
        trained = [weights for weights in self.parameters() if weights.requires_grad]
        has = torch.tensor([weights.grad is not None for weights in trained], device=self.device)
        reduce = self.trainer.strategy.reduce
        anywhere = cast("Tensor", reduce(has.float(), reduce_op="sum")) > 0
        for weights, is_there in zip(trained, anywhere.tolist(), strict=True):
            if is_there:
                own = torch.zeros_like(weights) if weights.grad is None else weights.grad
                weights.grad = cast("Tensor", reduce(own, reduce_op="mean"))

    def _synchronised(self, *, last: bool) -> AbstractContextManager[object]:
        """Let ranks exchange gradients only in the last backward pass of a step."""
        strategy = self.trainer.strategy
        last = last and not self._exchanges_itself
        if last or self.trainer.world_size == 1 or not hasattr(strategy.model, "no_sync"):
            return nullcontext()
        return cast("DistributedDataParallel", strategy.model).no_sync()


class _Sums:
    """The loss and the metrics of an optimiser step, each a sum with what it is divided by."""

    def __init__(self, device: torch.device) -> None:
        self._zero = torch.zeros((), device=device)
        self.totals: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}

    def add(self, loss: Loss) -> None:
        """Add those of a batch; a metric without a weight of its own has that of the loss."""
        for name, value in {"loss": loss.total, **loss.metrics}.items():
            total, weight = value if isinstance(value, tuple) else (value, loss.weight)
            self.totals[name] = self.totals.get(name, self._zero) + total.detach()
            self.weights[name] = self.weights.get(name, self._zero) + weight.detach()

    def means(self) -> dict[str, Tensor]:
        """Return the sums over their weights; what nothing was summed for is 0."""
        return {
            name: total / self.weights[name].clamp(min=self._least(name))
            for name, total in self.totals.items()
        }

    def _least(self, name: str) -> float:
        return 1 if name == "loss" else 1e-9


def _non_finite_message(where: str) -> str:
    return (
        f"the loss or a gradient is not finite {where}; the weights were not changed by it. "
        f"Lower optimizer.lr, lengthen scheduler.warmup_steps, or look at the rows of that step"
    )
