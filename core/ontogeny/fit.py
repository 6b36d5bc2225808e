"""The Lightning part of a training run: from prepared rows to trained weights."""

from __future__ import annotations

import math
import shutil
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from hydra.utils import instantiate

from ontogeny.compilation import compile_body
from ontogeny.data.loader import StepSampler, step_loader
from ontogeny.distributed import Ranks
from ontogeny.errors import CheckpointError, ConfigError
from ontogeny.evaluation import flat
from ontogeny.evaluator import on_screen
from ontogeny.forgetting import ForgettingBudget, mixture_changes, require_no_workers
from ontogeny.lightning_module import TrainingModule
from ontogeny.metrics_log import MetricsBuffer, MetricsFile
from ontogeny.optimization import optimizer_factory
from ontogeny.ranks import FitIsOver, is_first_rank
from ontogeny.run_folder import TRAINING_STATES
from ontogeny.selection import BestEvaluation
from ontogeny.store import home
from ontogeny.trainer import build_trainer, seconds
from ontogeny.training_callbacks import EvaluateEvery, ResumePosition, SaveAndStop, TellSteps
from ontogeny.training_state import Found, TrainingStates, find_latest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightning as L
    from lightning.pytorch.loggers import Logger
    from torch import nn

    from ontogeny.adapter import Adapter, Bundle
    from ontogeny.data.pipeline import TrainingRows
    from ontogeny.decisions import Decisions
    from ontogeny.evaluation import Evaluation
    from ontogeny.forgetting import Comparison
    from ontogeny.objective import Objective
    from ontogeny.options import Trainer
    from ontogeny.stage import StageContext


LOOKS = 10  # at what is forgotten, where a budget is set and trainer.evaluate_every is not


class Fit:
    """Trains a bundle on rows, from the start or from the newest sound training state."""

    def __init__(
        self,
        context: StageContext,
        objective: Objective,
        rows: TrainingRows,
        precision: str,
    ) -> None:
        self.context = context
        self.config = context.config
        self.objective = objective
        self.collator = copy(objective)  # for worker processes: without what it begins with
        self.rows = rows
        options = self.config.trainer
        # All options are read here: before the fit, the preflight asks which ones nothing reads.
        self.clip, self.compile = options.gradient_clip_val, options.compile
        self.shows_progress = options.progress
        self.evaluate_every, self.workers = options.evaluate_every, self.config.data.workers
        require_no_workers(self.config.forgetting, self.config.data)
        self.states = context.folder / TRAINING_STATES
        self.best = self._best_evaluation(options)
        self.resumed = self._find_state()
        self.buffer = MetricsBuffer(self._loggers(), options.log_every)
        self.saver = SaveAndStop(
            self.states,
            self.buffer,
            context.interruption,
            every_steps=options.save_every_steps,
            every_minutes=options.save_every_minutes,
            max_seconds=seconds(options.max_time),
        )
        batch_size = self.config.data.batch_size
        self.sampler = StepSampler(0, batch_size, options.accumulate_grad_batches)
        self.ranks = Ranks(context)
        self.trainer = self._trainer(precision)
        self.sampler.rank, self.sampler.world = self.trainer.global_rank, self.trainer.world_size
        self._keep_rows_per_step()
        self.steps = self.sampler.steps = self._count_steps()

    @property
    def device(self) -> torch.device:
        """The device that this process trains on."""
        return self.trainer.strategy.root_device

    @property
    def tokens(self) -> int:
        """How many tokens the run trains on at most."""
        return self.steps * self.sampler.rows_per_step * self.rows.capacity

    @property
    def tokens_per_step(self) -> float:
        """How many tokens an optimiser step trains on, in the mean and without padding."""
        mixture = self.rows.mixture
        return self.sampler.rows_per_step * mixture.tokens / mixture.rows

    def run(
        self,
        bundle: Bundle,
        adapters: Sequence[Adapter],
        evaluation: Evaluation,
        comparison: Comparison,
        decisions: Decisions,
        auxiliary: nn.Module | None = None,
    ) -> tuple[bool, int]:
        """Fit; return whether the run is complete, and how many steps are done."""
        module = self._module(bundle, adapters, auxiliary)
        if self.resumed and (self.resumed.ended or self.resumed.step >= self.steps):
            state = TrainingStates().load_checkpoint(self._state_path())
            module.load_state_dict(cast("dict[str, torch.Tensor]", state["state_dict"]))
            module.ended = self.resumed.ended
            for position, weights in mixture_changes(state):
                self.rows.mixture.change(position, weights)
            return self._result(module, self.resumed.step)
        parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
        if decisions.compiles(self.compile, parameters, self.tokens, self.context.announce):
            beside = [] if auxiliary is None else [auxiliary]
            for model in (bundle.model, *beside):
                compile_body(model, home() / "compiled", dynamic=not self.rows.packs)
        self._evaluate_in_the_loop(bundle, evaluation, comparison)
        self._add_callbacks(
            [
                *(own for each in adapters for own in each.callbacks(bundle, self.steps)),
                *self.objective.callbacks(self.steps),
                *self._tells(),
            ]
        )
        loader = step_loader(self.rows, self.collator, self.sampler, self.workers)
        path = self._state_path() if self.resumed else None
        try:
            with self.context.interruption.deferring(), self.ranks.running():
                self.trainer.fit(module, loader, ckpt_path=path, weights_only=True)
                module.check_finite()
                if module.ended or module.consumed >= self.steps:
                    # Evaluations may take long: being killed there must not cost the training.
                    self.saver.save(self.trainer, module)
        finally:
            self.buffer.flush()
        if self.context.interruption.received is not None:
            raise self.context.interruption.error()
        return self._result(module, module.consumed)

    def _state_path(self) -> Path:
        return cast("Found", self.resumed).path or self.states

    def _best_evaluation(self, options: Trainer) -> BestEvaluation | None:
        watched = options.monitor is not None
        return BestEvaluation(options, self.states, self.context.announce) if watched else None

    def _result(self, module: TrainingModule, steps: int) -> tuple[bool, int]:
        """Return (complete, steps); ranks other than the first have nothing more to do."""
        complete = module.ended or steps >= self.steps
        if not is_first_rank():
            raise FitIsOver(complete=complete)
        if complete and self.best is not None and self.best.keeps:
            self.best.restore(module)
        return complete, steps

    def _keep_rows_per_step(self) -> None:
        """Let a run that goes on with other devices take as many rows in a step as before."""
        rows, at_once = self.resumed and self.resumed.rows_per_step, self.sampler.rows_at_once
        if not rows:
            return
        if rows % at_once:
            msg = (
                f"trainer.devices gives {self.sampler.world} processes, which take {at_once} rows "
                f"at once, but this run began with {rows} rows in a step: choose a number of "
                f"devices so that {rows} is a multiple, or begin anew with resume=never"
            )
            raise ConfigError(msg)
        self.sampler.accumulate = rows // at_once

    def _count_steps(self) -> int:
        options = self.config.trainer
        per_epoch = math.ceil(len(self.rows) / self.sampler.rows_per_step)
        limits = []
        if options.max_epochs is not None:
            limits.append(max(1, round(options.max_epochs * per_epoch)))
        if options.max_steps is not None:
            limits.append(options.max_steps)
        return min(limits, default=per_epoch)

    def _module(
        self, bundle: Bundle, adapters: Sequence[Adapter], auxiliary: nn.Module | None
    ) -> TrainingModule:
        groups = [group for adapter in adapters for group in adapter.parameter_groups(bundle)]
        make = optimizer_factory(self.config.optimizer, self.config.scheduler, self.steps, groups)
        module = TrainingModule(
            bundle.model,
            self.objective,
            make,
            seed=self.config.seed,
            clip=self.clip,
            auxiliary=auxiliary,
        )
        module.record = self.buffer.add
        return module

    def _trainer(self, precision: str) -> L.Trainer:
        own: list[L.Callback] = [ResumePosition(self.sampler)]
        users = [_built("callbacks", *item) for item in self.config.callbacks.items()]
        return build_trainer(
            self.config.trainer,
            folder=self.context.folder,
            precision=precision,
            callbacks=[*own, *users, self.saver],  # saved last, after what others did at the step
            loggers=self.buffer.loggers,
            checkpoint_io=TrainingStates(),
            ranks=self.ranks,
        )

    def _evaluate_in_the_loop(
        self, bundle: Bundle, evaluation: Evaluation, comparison: Comparison
    ) -> None:
        every, watched = self.evaluate_every, self.config.forgetting.budget is not None
        if watched and every == 0:
            every = max(1, self.steps // LOOKS)
        if every == 0:
            return
        mixture, announce = self.rows.mixture, self.context.announce
        budget = ForgettingBudget(comparison, mixture, self.sampler, announce)

        def evaluate(module: TrainingModule) -> None:
            results = evaluation.run(bundle)
            self.buffer.write(module.consumed, flat(results))
            shown = flat({name: on_screen(metrics) for name, metrics in results.items()})
            listed = (f"{name.partition('/')[2]} {value:.4g}" for name, value in shown.items())
            announce(f"step {module.consumed}: {', '.join(listed)}")
            self.objective.evaluated(results)
            budget.look(module, results)
            if self.context.watch(module.consumed, results):
                self.saver.stop()
            if self.best is not None:
                self.best.look(module, results)

        watching = [budget] if self.best is None else [budget, self.best]
        self._add_callbacks([EvaluateEvery(every, evaluate), *watching])

    def _add_callbacks(self, callbacks: Sequence[L.Callback]) -> None:
        """Put callbacks before those that are there: states are saved after all others acted."""
        known = cast("list[L.Callback]", self.trainer.callbacks)  # type: ignore[attr-defined]
        known[:0] = callbacks

    def _tells(self) -> list[L.Callback]:
        if not self.shows_progress:
            return []
        return [TellSteps(self.context.steps, self.steps, self.tokens_per_step)]

    def _loggers(self) -> Sequence[Logger]:
        first = self.resumed.step if self.resumed else 0
        if not is_first_rank():
            return []
        own = MetricsFile(self.context.folder / "logs", first)
        return [own, *(_built("logger", *item) for item in self.config.logger.items())]

    def _find_state(self) -> Found | None:
        if self.config.resume == "never":
            shutil.rmtree(self.states, ignore_errors=True)  # else newer ones would outlive ours
            return None
        found = find_latest(self.states)
        if found.path is None:
            if self.config.resume == "must":
                msg = f"resume is must, but {self.states} holds no sound training state"
                raise CheckpointError(msg)
            return None
        self.context.announce(f"going on from step {found.step}")
        return found


def _built(group: str, name: str, options: object) -> Any:
    """Build somebody else's object; raise ConfigError with the key for what it refuses."""
    try:
        return instantiate(options)
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"{group}.{name} cannot be built: {reason}") from error
