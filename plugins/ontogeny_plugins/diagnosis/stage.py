"""The path advisor, top to bottom: sample, measure, probe, advise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ontogeny.data.pipeline import digest_source
from ontogeny.digest import DigestCache
from ontogeny.errors import ConfigError, DataError
from ontogeny.folders import write_text
from ontogeny.stage import Advice, Stage, StageContext, StageResult
from ontogeny_plugins.diagnosis.evidence import evidence_of, metrics_of
from ontogeny_plugins.diagnosis.investigation import Investigation
from ontogeny_plugins.diagnosis.overrides import next_options, next_overrides
from ontogeny_plugins.diagnosis.report import report
from ontogeny_plugins.diagnosis.rule import advise
from ontogeny_plugins.diagnosis.sampling import Sample, draw_sample

if TYPE_CHECKING:
    from ontogeny.configuration import StageConfig
    from ontogeny_plugins.diagnosis import Diagnosis

KNOWN = ("domain", "general")
TEXTS = (*KNOWN, "task")
ADVICE = "advice.json"


class DiagnosisStage(Stage):
    """Recommends a path for a checkpoint and a domain, with the numbers that led there."""

    def __init__(self, config: Diagnosis) -> None:
        self.config = config

    def run(self, context: StageContext) -> StageResult:
        """Measure, advise and write advice.json; there is no checkpoint."""
        require_inputs(context)
        samples = self._samples(context)
        findings = Investigation(context, self.config, samples).findings()
        if findings is None:  # trainer.max_time has ended a probe
            return StageResult(complete=False)
        advice = advise(findings, self.config)
        overrides = next_overrides(advice, context.config, samples.get("task"), findings.saving)
        evidence = evidence_of(findings, advice, samples, self.config.resamples)
        content = {
            "path": advice.path,
            "expand_vocabulary": advice.expand,
            "evidence": evidence,
            "overrides": overrides,
        }
        write_text(context.folder / ADVICE, json.dumps(content, indent=2) + "\n")
        for line in report(findings, advice, samples, overrides):
            context.announce(line)
        context.announce(f"all of it is in stages/{context.name}/{ADVICE} of this run's folder")
        return StageResult(
            metrics={"diagnosis": metrics_of(findings, self.config.resamples)},
            advice=Advice(advice.path, next_options(advice, context.config, findings.saving)),
        )

    def check(self, config: StageConfig) -> None:
        """Raise ConfigError where a text is missing, or something is set that is not read."""
        require_texts(config)

    def _samples(self, context: StageContext) -> dict[str, Sample]:
        data = context.config.data
        samples = {}
        for name in TEXTS:
            path = getattr(data, name).path
            if path is not None:
                samples[name] = draw_sample(
                    name,
                    path,
                    data,
                    documents=self.config.documents,
                    size=self.config.sample_bytes,
                    announce=context.announce,
                )
        return samples


def require_inputs(context: StageContext) -> None:
    """Raise ConfigError for what is missing, or would not be read; DataError for equal texts."""
    config = context.config
    _require_set("model.source", config.model.source)
    require_texts(config)
    cache = DigestCache(context.store.root / "digests")
    domain, general = str(config.data.domain.path), str(config.data.general.path)
    if digest_source(domain, cache) == digest_source(general, cache):
        msg = (
            f"data.domain.path and data.general.path hold the same text: {domain} and {general}; "
            f"general text is what the checkpoint knows already"
        )
        raise DataError(msg)


def require_texts(config: StageConfig) -> None:
    """Raise ConfigError where a text is missing, or something is set that is not read."""
    for name in KNOWN:
        _require_set(f"data.{name}.path", getattr(config.data, name).path)
    for key, (unread, remedy) in _unread(config).items():
        if unread:
            msg = f"{key} is {unread}, which a diagnosis does not read; {remedy}"
            raise ConfigError(msg)


def _require_set(key: str, value: str | None) -> None:
    if not value:
        needs = "a diagnosis needs a checkpoint, text of the domain and general text"
        msg = f"{key} is not set; {needs}"
        raise ConfigError(msg)


def _unread(config: StageConfig) -> dict[str, tuple[object, str]]:
    data, trainer = config.data, config.trainer
    texts = "name the texts in data.domain.path, data.general.path and data.task.path"
    share = "both texts hold out rows of their own: set data.validation.share"
    length = "a probe is stage.probe_steps long"
    return {
        "data.path": (data.path, texts),
        "data.sources": (list(data.sources), texts),
        "data.validation.path": (data.validation.path, share),
        "evaluator": (list(config.evaluator), "it measures by itself: 'evaluator=[]'"),
        "trainer.max_steps": (trainer.max_steps, length),
        "trainer.max_epochs": (trainer.max_epochs, length),
        "trainer.evaluate_every": (trainer.evaluate_every, length),
    }
