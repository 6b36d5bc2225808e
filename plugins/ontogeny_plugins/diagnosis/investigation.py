"""All measurements of a diagnosis; what is measured is kept, for a run that was cut off."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.adapter import Bundle
from ontogeny.attention import is_causal
from ontogeny.decisions import Decisions
from ontogeny.errors import CheckpointError, ConfigError
from ontogeny.folders import write_text
from ontogeny.models import longest_context
from ontogeny.precision import autocast
from ontogeny.seeding import seed_everything
from ontogeny.tokenizers import named_tokenizer
from ontogeny.training import default_device
from ontogeny_plugins.diagnosis.measuring import Interval, Scores, beyond, gap, score
from ontogeny_plugins.diagnosis.probe import Probe, Prober
from ontogeny_plugins.diagnosis.rule import Findings
from ontogeny_plugins.diagnosis.sampling import within
from ontogeny_plugins.diagnosis.saving import Saving, extenders, measure_saving
from ontogeny_plugins.diagnosis.token_scores import lines_of
from ontogeny_plugins.diagnosis.trigram import Trigram
from ontogeny_plugins.diagnosis.words import overlaps, task_overlaps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.head import Head
    from ontogeny.stage import StageContext
    from ontogeny_plugins.diagnosis import Diagnosis
    from ontogeny_plugins.diagnosis.sampling import Sample

MEASURED = "measured.json"
KNOWN = ("domain", "general")


class Investigation:
    """Measures a checkpoint on samples of a domain, of general text and maybe of a task."""

    def __init__(
        self, context: StageContext, options: Diagnosis, samples: Mapping[str, Sample]
    ) -> None:
        self.context = context
        self.config = context.config
        self.options = options
        self.samples = samples
        self.device = default_device(self.config.trainer.accelerator)
        self.precision = Decisions(context.folder).numbers(self.config, self.device)
        self.tokenizer = cast("PreTrainedTokenizerBase", named_tokenizer(self.config))

    def findings(self) -> Findings | None:
        """Return everything that was measured; None when time was up within a probe."""
        scores, saving = self._measured()
        probes = self._probes(scores) if self.options.probe else []
        if probes is None:
            return None
        domain, general = (self.samples[name].counted for name in KNOWN)
        task = self.samples.get("task")
        return Findings(
            scores=scores,
            gap=gap(scores["domain"], scores["general"], self.options.resamples),
            beyond=beyond(scores["domain"], scores["general"], self.options.resamples),
            shared_words=overlaps(domain, general),
            task_words=task_overlaps(task.counted, domain, general) if task else None,
            saving=saving,
            probes=probes,
        )

    def _measured(self) -> tuple[dict[str, Scores], Saving | None]:
        """Measure the checkpoint as it is, or read what a run before this one has measured."""
        file = self.context.folder / MEASURED
        if not file.exists():
            bundle = self._load()
            scores, saving = self._scores(bundle), self._saving(bundle)
            content = {
                "scores": {name: asdict(each) for name, each in scores.items()},
                "saving": None if saving is None else asdict(saving),
            }
            write_text(file, json.dumps(content) + "\n")
        content = json.loads(file.read_text())
        scores = {name: Scores(**each) for name, each in content["scores"].items()}
        return scores, _saving(content["saving"])

    def _load(self) -> Bundle:
        seed_everything(self.config.seed, "weights")
        head = cast("Head", self.context.registry.build(self.config.head))
        model = head.load(self.config.model, self.tokenizer)
        require_causal(str(self.config.model.source), model)
        longest, length = longest_context(model), self.config.data.max_length
        if longest is not None and length > longest:
            msg = (
                f"data.max_length is {length}, longer than the context of the model: {longest} "
                f"(max_position_embeddings)"
            )
            raise ConfigError(msg)
        cast("nn.Module", model).to(self.device)
        return Bundle(model.eval(), self.tokenizer, head)

    def _scores(self, bundle: Bundle) -> dict[str, Scores]:
        teachers = self._teachers()
        scores = {}
        for name, sample in self.samples.items():
            self.context.announce(f"scoring {len(sample.measured)} held-out texts of {sample.path}")
            own = teachers if name == "task" else {name: teachers[name]}
            scores[name] = self._score(bundle, sample, own)
            require_finite(str(self.config.model.source), sample.path, scores[name])
        return scores

    def _teachers(self) -> dict[str, Trigram]:
        """Return trigram models of domain and general text, counted in equally many bytes."""
        size = min(self.samples[name].counted_bytes() for name in KNOWN)
        texts = {name: within(self.samples[name].counted, size) for name in KNOWN}
        vocabulary = len(self.tokenizer)
        return {
            name: Trigram(lines_of(each, self.tokenizer), vocabulary)
            for name, each in texts.items()
        }

    def _score(self, bundle: Bundle, sample: Sample, teachers: Mapping[str, Trigram]) -> Scores:
        data = self.config.data
        with torch.no_grad(), autocast(self.precision, self.device):
            return score(
                bundle,
                sample.measured,
                teachers,
                length=data.max_length,
                batch_size=data.batch_size,
            )

    def _saving(self, bundle: Bundle) -> Saving | None:
        """Measure the first adapter of the stage that extends the tokenizer."""
        first = next(extenders(self.context), None)
        if first is None:
            return None
        domain, general = (self.samples[each] for each in KNOWN)
        return measure_saving(self.context, *first, bundle, domain, general, self.options.resamples)

    def _probes(self, scores: Mapping[str, Scores]) -> list[Probe] | None:
        prober = Prober(
            self.context,
            self.tokenizer,
            *(self.samples[name] for name in KNOWN),
            steps=self.options.probe_steps,
            without={name for name, _ in extenders(self.context)},
            measure=lambda bundle, sample: self._score(bundle, sample, {}).bits_per_byte,
        )
        before = (scores["domain"].bits_per_byte, scores["general"].bits_per_byte)
        probes = []
        for share in sorted(self.options.probe_shares):
            probe = prober.run(share, before)
            if probe is None:
                return None
            probes.append(probe)
        return probes


def require_causal(source: str, model: PreTrainedModel) -> None:
    """Raise ConfigError for a checkpoint whose output layer was not trained for the next token."""
    loaded, saved = type(model).__name__, model.config.architectures or []
    if is_causal(model) and (not saved or loaded in saved):
        return
    msg = (
        f"model.source is {source!r}, a {[*saved, loaded][0]}, whose output layer predicts no next "
        f"token; a diagnosis needs a causal language model"
    )
    raise ConfigError(msg)


def require_finite(source: str, path: str, scores: Scores) -> None:
    """Raise CheckpointError for a checkpoint whose predictions are no numbers."""
    wrong = sum(not math.isfinite(nats) for nats in scores.nats)
    if wrong:
        msg = (
            f"model.source is {source!r}, which predicts NaN or infinity in {wrong} of "
            f"{len(scores.nats)} texts of {path}: its weights are damaged, or overflow in this "
            f"precision (precision=32-true)"
        )
        raise CheckpointError(msg)


def _saving(content: dict[str, object] | None) -> Saving | None:
    if content is None:
        return None
    saved = Interval(**cast("dict[str, float]", content.pop("saved")))
    return Saving(saved=saved, **content)  # type: ignore[arg-type]  # as it was written
