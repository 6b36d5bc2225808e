"""What a diagnosis says on the screen: the numbers, the advice, its reasons, the next command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from textwrap import wrap
from typing import TYPE_CHECKING

from ontogeny_plugins.diagnosis.rule import SPECIALISED, change, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ontogeny_plugins.diagnosis.measuring import Interval
    from ontogeny_plugins.diagnosis.rule import Advice, Findings
    from ontogeny_plugins.diagnosis.sampling import Sample

Row = tuple[str, Iterable[str], str]  # label, a cell for each text, remark
LABEL, COLUMN, TITLE, WIDTH = 28, 11, 11, 100  # characters
PATHS = {
    True: "specialised: continue pre-training on the domain",
    False: "standard: go to the task",
}


def report(
    findings: Findings,
    advice: Advice,
    samples: Mapping[str, Sample],
    overrides: Sequence[str],
) -> Iterator[str]:
    """Yield the lines of the report."""
    yield from _table(findings, samples)
    yield ""
    vocabulary = "expand the vocabulary" if advice.expand else "keep the vocabulary"
    yield f"{'ADVICE':<{TITLE}}{PATHS[advice.path == SPECIALISED]}; {vocabulary}"
    said = {"because": advice.because, "otherwise": advice.flips, "note": advice.notes}
    for title, lines in said.items():
        for line in lines:
            yield from _wrapped(title, line)
    if overrides:  # unbroken, to be copied
        yield f"{'next':<{TITLE}}{shlex.join(['ontogeny', *overrides])}"


def _wrapped(title: str, text: str) -> Iterator[str]:
    lines = wrap(text, WIDTH - TITLE, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        yield f"{title if number == 0 else '':<{TITLE}}{line}"


def _table(findings: Findings, samples: Mapping[str, Sample]) -> Iterator[str]:
    width = LABEL + COLUMN * len(findings.scores)
    for label, cells, remark in _rows(findings, samples):
        listed = "".join(f"{cell:>{COLUMN}}" for cell in cells)
        yield f"{f'{label:<{LABEL}}{listed}':<{width}}   {remark}".rstrip()


def _rows(findings: Findings, samples: Mapping[str, Sample]) -> Iterator[Row]:
    scores, gap = findings.scores, findings.gap
    yield "", scores, ""
    yield "held-out texts", (f"{len(samples[name].measured):,}" for name in scores), ""
    yield "tokens per word", (f"{each.tokens_per_word:.2f}" for each in scores.values()), ""
    yield "tokens per byte", (f"{each.tokens_per_byte:.3f}" for each in scores.values()), ""
    if any(each.unknown_share for each in scores.values()):
        yield "unknown tokens", (percent(each.unknown_share) for each in scores.values()), ""
    bits = (f"{each.bits_per_byte:.3f}" for each in scores.values())
    yield "bits per byte", bits, f"gap {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
    words = (*findings.shared_words, *(findings.task_words or ())[1:])
    yield "commonest words shared", map(percent, words), "with general text"
    learnable = (each.learnable(next(iter(each.taught))) for each in scores.values())
    beyond = f"beyond general text {_span(findings.beyond)}"
    yield "learnable from such text", map(percent, learnable), beyond
    saving = findings.saving
    if saving is not None and saving.tokens:
        shorter = (change(-saved) for saved in (saving.saved.value, saving.saved_general))
        cost = f"for {saving.parameters:,} parameters"
        yield f"tokens, with {saving.tokens:,} new ones", shorter, cost
    for probe in findings.probes:
        changes = map(change, (-probe.gain, probe.forgetting))
        label = f"bits per byte, {probe.share:.0%} general"
        yield label, changes, f"after a probe of {probe.steps} steps"


def _span(interval: Interval) -> str:
    return f"{percent(interval.value)} ({percent(interval.low)} to {percent(interval.high)})"
