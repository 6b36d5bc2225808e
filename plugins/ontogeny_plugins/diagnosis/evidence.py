"""The numbers of a diagnosis, for advice.json and metrics.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ontogeny.evaluator import Metric, Metrics
from ontogeny_plugins.diagnosis.measuring import Interval, bits_per_byte

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ontogeny_plugins.diagnosis.rule import Advice, Findings
    from ontogeny_plugins.diagnosis.sampling import Sample


def evidence_of(
    findings: Findings, advice: Advice, samples: Mapping[str, Sample], resamples: int
) -> dict[str, object]:
    """Return everything that was measured and how it was judged, as plain data."""
    scores = findings.scores
    shared, itself = findings.shared_words
    saving = findings.saving
    return {
        "texts": {name: _sample(sample) for name, sample in samples.items()},
        "tokens_per_word": {name: each.tokens_per_word for name, each in scores.items()},
        "tokens_per_byte": {name: each.tokens_per_byte for name, each in scores.items()},
        "unknown_tokens": {name: each.unknown_share for name, each in scores.items()},
        "bits_per_byte": {
            name: asdict(bits_per_byte(each, resamples)) for name, each in scores.items()
        },
        "bits_per_byte_gap": {
            **asdict(findings.gap),
            "relative": findings.gap.value / scores["general"].bits_per_byte,
        },
        "common_words": {
            "domain_and_general": shared,
            "general_and_itself": itself,
            "task_and_domain": findings.task_words and findings.task_words[0],
            "task_and_general": findings.task_words and findings.task_words[1],
        },
        "learnable": {
            **{
                f"{name}_by_{teacher}": each.learnable(teacher)
                for name, each in scores.items()
                for teacher in each.taught
            },
            "beyond_general": asdict(findings.beyond),
        },
        "vocabulary": saving
        and {
            **asdict(saving),
            "computation_saved": saving.net,
            "break_even_tokens": saving.break_even,
        },
        "probes": [
            {**asdict(probe), "gain": probe.gain, "forgetting": probe.forgetting}
            for probe in findings.probes
        ],
        "because": advice.because,
        "flips": advice.flips,
        "notes": advice.notes,
    }


def metrics_of(findings: Findings, resamples: int) -> Metrics:
    """Return the measurements under the field's words, with units."""
    metrics: Metrics = {}
    for name, each in findings.scores.items():
        metrics[f"bits_per_byte/{name}"] = _metric(bits_per_byte(each, resamples), "bits/byte")
        metrics[f"tokens_per_word/{name}"] = Metric(each.tokens_per_word, "tokens/word")
        metrics[f"tokens_per_byte/{name}"] = Metric(each.tokens_per_byte, "tokens/byte")
    metrics["bits_per_byte_gap"] = _metric(findings.gap, "bits/byte")
    metrics["common_words_shared"] = Metric(findings.shared_words[0], "1")
    for name in ("domain", "general"):
        metrics[f"learnable/{name}"] = Metric(findings.scores[name].learnable(name), "1")
    metrics["learnable_beyond_general"] = _metric(findings.beyond, "1")
    if findings.saving is not None:
        metrics["tokens_saved"] = _metric(findings.saving.saved, "1")
    for probe in findings.probes:
        metrics[f"gain/probe_{probe.share:g}"] = Metric(probe.gain, "1")
        metrics[f"forgetting/probe_{probe.share:g}"] = Metric(probe.forgetting, "1")
    return metrics


def _sample(sample: Sample) -> dict[str, object]:
    return {
        "path": sample.path,
        "rows": sample.rows,
        "held_out_share": sample.share,
        "measured_texts": len(sample.measured),
        "counted_texts": len(sample.counted),
        "counted_bytes": sample.counted_bytes(),
    }


def _metric(interval: Interval, unit: str) -> Metric:
    return Metric(interval.value, unit, interval.low, interval.high)
