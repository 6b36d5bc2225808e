"""A training run, top to bottom: data, model, proofs, fit, settled model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.adapter import Adapter, Bundle
from ontogeny.annotations import Annotation, Recorded
from ontogeny.companions import Companions, given_model
from ontogeny.configuration import stable
from ontogeny.data.corpus import Corpus
from ontogeny.data.pipeline import (
    PreparedSource,
    SourceReader,
    TrainingRows,
    prepare_source,
    sources_of,
    validation_rows,
)
from ontogeny.decisions import Decisions
from ontogeny.digest import DigestCache
from ontogeny.errors import ConfigError, RowError
from ontogeny.evaluation import Evaluation
from ontogeny.evaluator import EvaluationData
from ontogeny.fit import Fit
from ontogeny.forgetting import Comparison
from ontogeny.head import Head
from ontogeny.liveness import unread
from ontogeny.models import longest_context
from ontogeny.objective import Objective
from ontogeny.options import Schedule
from ontogeny.preflight import Proof, prove, require
from ontogeny.ranks import is_first_rank
from ontogeny.schedule import factor
from ontogeny.seeding import seed_everything
from ontogeny.tokenizers import tokenizer_digest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.data.mixing import Mixture
    from ontogeny.objective import Batch
    from ontogeny.stage import StageContext


# Keys that nothing has read before the first step: the fit, or what comes after it, will.
READ_LATER = (
    *("evaluator.", "stage.", "optimizer.", "forgetting.", "callbacks.", "logger."),
    *("data.workers.", "trainer.compile.", "trainer.evaluate_every.", "trainer.gradient_clip_val."),
)


@dataclass
class Trained:
    """What a training run leaves in memory."""

    bundle: Bundle
    steps: int
    complete: bool
    evaluation: Evaluation
    comparison: Comparison
    lineage: dict[str, object]


class Training:
    """One training run of a stage; `run` is the order in which everything happens."""

    def __init__(
        self,
        context: StageContext,
        tokenizer: PreTrainedTokenizerBase,
        *,
        compares: bool,
        before: Callable[[Bundle], object] = lambda _: None,
    ) -> None:
        self.context = context
        self.config = context.config
        self.original_tokenizer = self.tokenizer = tokenizer
        self.compares = compares  # with the model as it was given
        self.before = before  # is shown that model, on its device
        self.facts: dict[str, object] = {}
        self.folder = context.folder
        self.objective = cast("Objective", context.registry.build(self.config.objective))
        self.head = cast("Head", context.registry.build(self.config.head))
        self.adapters = {
            name: cast("Adapter", context.registry.build(options))
            for name, options in self.config.adapter.items()
        }

    def run(self) -> Trained:
        """Train to the end, or to where time or a signal ends it."""
        self.look_at_the_data()
        sources = self._prepare_data()
        rows = TrainingRows(sources, self.objective, self.config.data, self.config.seed)
        decisions = Decisions(self.folder)
        precision = decisions.numbers(self.config, default_device(self.config.trainer.accelerator))
        bundle = self._load()
        self._check_length(bundle)
        fit = Fit(self.context, self.objective, rows, precision)
        cast("nn.Module", bundle.model).to(fit.device)
        if is_first_rank():
            self.before(bundle)
        companions = self._companions(fit.device)
        self.objective.begin(companions)
        self._annotate(rows, bundle, companions, precision)
        evaluation = self._evaluation(sources, precision)
        evaluation.begin(companions)
        evaluation.check(bundle)
        comparison = self._comparison(bundle, evaluation)
        bundle = self._adapt(bundle, rows, fit)
        companions.adapted(bundle, list(self.adapters.values()))
        seed_everything(self.config.seed, "objective")
        auxiliary = self.objective.auxiliary(bundle)
        if auxiliary is not None:
            auxiliary.to(fit.device)
        self._report_data(rows, fit)
        if self.config.preflight:
            self._preflight(bundle, rows, fit.steps)
        adapters = list(self.adapters.values())
        complete, steps = fit.run(bundle, adapters, evaluation, comparison, decisions, auxiliary)
        cast("nn.Module", bundle.model).to(fit.device)
        for adapter in reversed(adapters):
            bundle = adapter.settle(bundle)
        shares = rows.mixture.shares_after(steps * fit.sampler.rows_per_step)
        if len(shares) > 1:
            self.context.announce(f"data: shares of the tokens seen: {_percentages(shares)}")
        lineage = self._lineage(sources, rows.mixture, steps, steps * fit.sampler.rows_per_step)
        return Trained(bundle, steps, complete, evaluation, comparison, lineage)

    def look_at_the_data(self) -> None:
        """Let adapters extend the tokenizer, and tell the head what the objective finds."""
        columns, store = self.objective.columns, self.context.store
        corpus = Corpus(self.config.data, columns, store, self.context.announce)
        for adapter in self.adapters.values():
            self.tokenizer = adapter.extend(self.tokenizer, corpus)
        self.facts = self.objective.survey(corpus)
        self.head.configure(self.facts)

    def _prepare_data(self) -> list[PreparedSource]:
        data = self.config.data
        digest = tokenizer_digest(self.tokenizer)
        cache = DigestCache(self.context.store.root / "digests")
        kind, registered = self.context.registry.find(self.config.objective)
        identity = {
            kind: registered.component.name,
            "options": stable(self.config.objective),
            "survey": self.facts,
        }
        prepared = []
        for name, source in sources_of(data).items():
            reader = SourceReader(name, source.path, data, self.objective.columns)
            prepared.append(
                prepare_source(
                    reader,
                    self.objective,
                    {**identity, "code": self.context.registry.code_version(registered.plugin)},
                    self.tokenizer,
                    digest,
                    self.context.store,
                    cache,
                )
            )
        for ready in prepared:
            self._report_source(ready)
        return prepared

    def _report_source(self, source: PreparedSource) -> None:
        data, facts = self.config.data, source.facts
        path = sources_of(data)[source.name].path
        is_example = data.path is None and not data.sources
        hint = " (the example text; data.path is for yours)" if is_example else ""
        counts = f"{facts['rows']} rows to train on, {facts['held_out']} held out"
        self.context.announce(f"data: {path}: {counts}{hint}")
        if facts["rejected"]:
            kept = self.folder / f"rejected-{source.name}.jsonl"
            kept.write_bytes((source.folder / "rejected.jsonl").read_bytes())
            self.context.announce(f"data: {facts['rejected']} bad rows left out, see {kept.name}")

    def _load(self) -> Bundle:
        """Build or load the model, as it is before the adapters."""
        bundle, rows = given_model(self.config, self.head, self.original_tokenizer)
        if rows:
            self.context.announce(f"model: {rows} new rows of embeddings, for added tokens")
        return bundle

    def _companions(self, device: torch.device) -> Companions:
        context, given = self.context, self.original_tokenizer
        registry, store = context.registry, context.store
        return Companions(
            self.config,
            registry,
            store,
            self.head,
            given,
            self.tokenizer,
            device,
            context.announce,
        )

    def _annotate(
        self, rows: TrainingRows, bundle: Bundle, companions: Companions, precision: str
    ) -> None:
        """Let the objective's companion read all rows, where that was not done before."""
        found = self.objective.annotator()
        if found is None:
            return
        companion = found.companion if isinstance(found, Recorded) else found
        if companion is not None:
            companions.require_same_tokens(companion)
        plugin = self.context.registry.find(self.config.objective)[1].plugin
        code = self.context.registry.code_version(plugin)
        batch_size = self.config.data.batch_size
        annotation = Annotation(self.objective, companion, code, precision, batch_size)
        if isinstance(found, Recorded):
            annotation.take(rows, found.key, found.folder)
            return
        is_given = found.digest == companions.original.digest

        def model() -> nn.Module:
            reader = bundle if is_given else found.load()
            return cast("nn.Module", reader.model)

        annotation.add_to(rows, model, self.context.store, self.context.announce)

    def _comparison(self, bundle: Bundle, evaluation: Evaluation) -> Comparison:
        """Measure the model as it was given, unless a run that was cut off has done so."""
        options, data = self.config.forgetting, self.config.data
        comparison = Comparison(options, data, self.folder / "before.json")
        if (self.compares or options.budget is not None) and not comparison.before:
            comparison.start(evaluation.run(bundle))
        if self.compares and (reason := comparison.gap()):
            self.context.announce(f"forgetting: not measured: {reason}")
        return comparison

    def _adapt(self, bundle: Bundle, rows: TrainingRows, fit: Fit) -> Bundle:
        """Apply the adapters; what they draw depends on the seed alone."""
        for name, adapter in self.adapters.items():
            seed_everything(self.config.seed, "adapter", name)
            bundle = adapter.apply(bundle)
        cast("nn.Module", bundle.model).to(fit.device)
        for name, adapter in self.adapters.items():
            seed_everything(self.config.seed, "initialise", name)
            adapter.initialise(bundle, self._first_batches(rows, fit))
        if self.config.trainer.gradient_checkpointing:
            _checkpoint_activations(bundle.model)
        return bundle

    def _first_batches(self, rows: TrainingRows, fit: Fit) -> Iterator[Batch]:
        """Yield the batches of the run from its first step on, on the device, for one epoch."""
        size = self.config.data.batch_size
        for first in range(0, min(len(rows), fit.steps * fit.sampler.rows_per_step), size):
            batch = self.objective.collate([rows[first + row] for row in range(size)])
            yield {name: tensor.to(fit.device) for name, tensor in batch.items()}

    def _check_length(self, bundle: Bundle) -> None:
        longest = longest_context(bundle.model)
        if longest is not None and self.config.data.max_length > longest:
            msg = (
                f"data.max_length is {self.config.data.max_length}, longer than the context of the "
                f"model: {longest} (max_position_embeddings)"
            )
            raise ConfigError(msg)

    def _evaluation(self, sources: list[PreparedSource], precision: str) -> Evaluation:
        data = self.config.data
        rows = validation_rows(data, sources, self.objective.columns)
        return Evaluation(
            self.config.evaluator,
            self.context.registry,
            EvaluationData(rows, data),
            precision=precision,
            seed=self.config.seed,
        )

    def _report_data(self, rows: TrainingRows, fit: Fit) -> None:
        announce = self.context.announce
        announce(
            f"data: {len(rows):,} rows of up to {rows.capacity} tokens, "
            f"{rows.mixture.tokens:,} tokens; {fit.steps:,} steps"
        )
        for name, truncated in rows.truncated.items():
            if truncated:
                announce(f"data: {truncated} examples of {name} cut to {rows.capacity} tokens")
        for name, count in rows.too_long.items():
            if count:
                what = f"longer than data.max_length={rows.capacity}"
                announce(f"data: {count} examples of {name} left out: {what}")
        for name, count in rows.unlabelled.items():
            if count:
                what = f"nothing to learn within data.max_length={rows.capacity}"
                announce(f"data: {count} examples of {name} left out: {what}")
        if len(rows.mixture.sources) > 1:
            asked = _percentages(rows.mixture.shares)
            announce(f"data: shares of tokens: {asked}")

    def _preflight(self, bundle: Bundle, rows: TrainingRows, steps: int) -> None:
        if isinstance(self.config.scheduler, Schedule):
            factor(self.config.scheduler, steps - 1, steps)  # reads what this shape uses
        examples = [rows[position] for position in range(min(2, len(rows)))]
        proofs = prove(bundle, self.objective, examples, list(self.adapters.values()))
        proofs.append(self._every_key_is_read())
        self._show(proofs)
        require(proofs)

    def _every_key_is_read(self) -> Proof:
        self._prepare_again()
        keys = [key for key in self.context.overrides if not f"{key}.".startswith(READ_LATER)]
        dead = unread(self.config, keys)
        evidence = f"nothing reads {', '.join(dead)}" if dead else f"{len(keys)} keys set"
        return Proof("every key that was set is read", not dead, evidence)

    def _prepare_again(self) -> None:
        """Tokenise a row, so that the objective reads its options though the rest is cached."""
        name, source = next(iter(sources_of(self.config.data).items()))
        reader = SourceReader(name, source.path, self.config.data, self.objective.columns)
        for record in reader.training_records():
            with suppress(RowError):  # left out before, where that was asked for
                list(self.objective.prepare([record.row], self.tokenizer))
                return

    def _show(self, proofs: list[Proof]) -> None:
        marks = {True: "holds", False: "FAILS", None: "does not apply"}
        width = max(len(proof.name) for proof in proofs)
        for proof in proofs:
            line = f"preflight: {proof.name:<{width}}  {marks[proof.holds]:<15} {proof.evidence}"
            self.context.announce(line)

    def _lineage(
        self, sources: list[PreparedSource], mixture: Mixture, steps: int, rows: int
    ) -> dict[str, object]:
        """Return the lineage with the facts of the data, of which `rows` rows were trained on."""
        paths = {name: source.path for name, source in sources_of(self.config.data).items()}
        shares, tokens = mixture.shares_after(rows), mixture.tokens_after(rows)
        data = [
            {
                "name": s.name,
                "path": paths[s.name],
                "share": shares[s.name],
                "requested": mixture.requested[s.name],
                "tokens": tokens[s.name],
                **s.facts,
            }
            for s in sources
        ]
        changes = {name: adapter.record() for name, adapter in self.adapters.items()}
        changes = {name: change for name, change in changes.items() if change}
        more = {"changes": changes} if changes else {}
        return {**self.context.lineage, "steps": steps, "data": data, **more}


def _percentages(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items())


def _checkpoint_activations(model: PreTrainedModel) -> None:
    """Compute activations again on the way back; transformers 5 has renamed how this is said."""
    renamed = getattr(model, "activation_checkpointing_enable", None)
    (renamed or model.gradient_checkpointing_enable)()


def default_device(accelerator: str) -> str:
    """Return the device type that an accelerator name stands for on this machine."""
    names = {"gpu": "cuda", "cuda": "cuda", "cpu": "cpu", "mps": "mps"}
    return names.get(accelerator, "cuda" if torch.cuda.is_available() else "cpu")
