"""The rule: which numbers decide the path and the vocabulary, and what would decide otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny_plugins.diagnosis import Diagnosis
    from ontogeny_plugins.diagnosis.measuring import Interval, Scores
    from ontogeny_plugins.diagnosis.probe import Probe
    from ontogeny_plugins.diagnosis.saving import Saving

STANDARD, SPECIALISED = "standard", "specialised"
FEW = 10  # texts: with fewer, an interval over them says little
HIDDEN = 0.01  # share of unknown tokens from which the other numbers say too little
HARDER = 0.05  # relative gap from which the domain counts as harder or easier than general text


@dataclass(frozen=True)
class Findings:
    """Everything that was measured; texts by `domain`, `general` and, where given, `task`."""

    scores: dict[str, Scores]
    gap: Interval  # bits per byte of the domain above those of general text
    beyond: Interval  # learnable share of the domain above that of general text
    shared_words: tuple[float, float]  # of domain and general, and of general with itself
    task_words: tuple[float, float] | None  # of the task with the domain, and with general text
    saving: Saving | None
    probes: Sequence[Probe]


@dataclass
class Advice:
    """What to do, because of which numbers, and which others would change it."""

    path: str = STANDARD
    expand: bool = False
    replay: float = 0.0  # share of general text in the mixture of the specialised path
    because: list[str] = field(default_factory=list)
    flips: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def advise(findings: Findings, options: Diagnosis) -> Advice:
    """Return the advice: the path first, which decides whether new tokens could be trained."""
    advice = Advice(replay=options.replay)
    if findings.probes:
        _path_by_probe(findings.probes, options, advice)
    else:
        _path_by_text(findings, options, advice)
    _vocabulary(findings.saving, options, advice)
    advice.notes += _notes(findings, options)
    return advice


def _path_by_text(findings: Findings, options: Diagnosis, advice: Advice) -> None:
    """Decide by what the domain's own text could teach, beyond what general text still could."""
    beyond, least = findings.beyond, least_learnable(findings, options)
    advice.path = SPECIALISED if beyond.value >= least else STANDARD
    own, general = (findings.scores[name].learnable(name) for name in ("domain", "general"))
    bits = findings.scores["domain"].bits_per_byte
    advice.because.append(
        f"a trigram model of the domain's text, mixed with the checkpoint, saves {percent(own)} of "
        f"its bits on held-out text of the domain; the same with general text saves "
        f"{percent(general)}. What the domain has to teach, {percent(beyond.value)}, is "
        f"{_above(advice.path)} {percent(least)} (stage.{_key(findings, options)})"
    )
    advice.flips.append(
        f"{_other(advice.path)}, if that model saved {_beside(advice.path)} than "
        f"{bits * (least + general):.2f} of the {bits:.2f} bits per byte; it saves {bits * own:.2f}"
    )
    _own_words(findings, options, advice)
    if beyond.low < least <= beyond.high:
        advice.notes.append(
            f"a close call: {percent(least)} is within the interval of what there is to teach; a "
            f"probe (diagnosis.probe=true) or more text decides it"
        )


def _own_words(findings: Findings, options: Diagnosis, advice: Advice) -> None:
    """Say which of the two thresholds counted, and whether the other one would turn the advice."""
    shared, itself = findings.shared_words
    has, turn = has_own_words(findings, options), options.own_words * itself
    advice.because.append(
        f"the domain has {'words' if has else 'no words'} of its own: {percent(shared)} of its "
        f"commonest ones are shared with general text, {'less than' if has else 'at least'} "
        f"{percent(turn)}, which is {percent(options.own_words)} (stage.own_words) of what general "
        f"text shares with itself"
    )
    if options.min_learnable <= findings.beyond.value < options.min_learnable_same_words:
        word = "at least" if has else "less than"
        other = _other(advice.path)
        advice.flips.append(f"{other}, if {word} {percent(turn)} of those words were shared")


def has_own_words(findings: Findings, options: Diagnosis) -> bool:
    """Say whether the domain shares clearly fewer words with general text than that with itself."""
    shared, itself = findings.shared_words
    return shared < options.own_words * itself


def least_learnable(findings: Findings, options: Diagnosis) -> float:
    """Return how much the domain must have to teach: less, where even its words are new."""
    return float(getattr(options, _key(findings, options)))


def _key(findings: Findings, options: Diagnosis) -> str:
    has = has_own_words(findings, options)
    return "min_learnable" if has else "min_learnable_same_words"


def _path_by_probe(probes: Sequence[Probe], options: Diagnosis, advice: Advice) -> None:
    """Decide by what a probe gained: the first one, with the least general text, shows most."""
    first, least = probes[0], options.min_probe_gain
    advice.path = SPECIALISED if first.beyond_general >= least else STANDARD
    elsewhere = first.gain - first.beyond_general
    advice.because.append(
        f"{first.steps} steps on the domain, with {first.share:.0%} general text, changed its bits "
        f"per byte by {change(-first.gain)} and those of general text by "
        f"{change(first.forgetting)}. The gain that general text has no part in, "
        f"{percent(first.beyond_general)}, is {_above(advice.path)} {percent(least)} "
        f"(stage.min_probe_gain)"
    )
    turn = first.domain_before * (1 - least - elsewhere)
    word = "above" if advice.path == SPECIALISED else "below"
    advice.flips.append(
        f"{_other(advice.path)}, if those steps had left the domain {word} {turn:.3f} bits per "
        f"byte; they went from {first.domain_before:.3f} to {first.domain_after:.3f}"
    )
    kept = [probe for probe in probes if probe.forgetting <= options.max_forgetting]
    chosen = kept[0] if kept else probes[-1]
    advice.replay = chosen.share
    if advice.path == SPECIALISED:
        most = f"{percent(options.max_forgetting)} (stage.max_forgetting)"
        verdict = f"at most {most}" if kept else f"above {most}; more general text was not probed"
        advice.because.append(
            f"{chosen.share:.0%} general text in the mixture: with it the probe changed bits per "
            f"byte of general text by {change(chosen.forgetting)}, {verdict}"
        )


def _vocabulary(saving: Saving | None, options: Diagnosis, advice: Advice) -> None:
    """Decide whether new tokens save more computation than they cost."""
    if saving is None or saving.tokens == 0:
        reason = "no adapter of this stage extends it"
        if saving is not None:
            reason = f"{saving.adapter} found no token worth adding"
        advice.because.append(f"the vocabulary stays: {reason}")
        return
    least = options.min_saving
    is_enough = saving.net >= least
    advice.expand = is_enough and advice.path == SPECIALISED
    advice.because.append(
        f"{saving.tokens:,} new tokens make held-out text of the domain "
        f"{percent(saving.saved.value)} shorter, and each token {percent(saving.dearer)} more work "
        f"for the model. The computation saved, {percent(saving.net)}, is "
        f"{'at least' if is_enough else 'below'} {percent(least)} (stage.min_saving)"
    )
    if advice.path == STANDARD:
        advice.because.append("the vocabulary stays: the standard path would not train new tokens")
        return
    verb, word = ("keep", "less") if advice.expand else ("expand", "more")
    advice.flips.append(
        f"{verb} the vocabulary, if they made that text {word} than "
        f"{percent(saving.needed(least))} shorter"
    )


def _notes(findings: Findings, options: Diagnosis) -> list[str]:
    """Return what a reader of the numbers may stumble over."""
    notes = []
    relative = findings.gap.value / findings.scores["general"].bits_per_byte
    learnable = findings.beyond.value >= least_learnable(findings, options)
    if relative > HARDER and not learnable:
        notes.append(
            f"the domain costs {percent(relative)} more bits per byte than general text, but its "
            f"own text would hardly make it cheaper: a gap alone does not call for training"
        )
    if relative < HARDER and learnable:
        notes.append(
            "the domain costs hardly more bits per byte than general text, and yet its own text "
            "makes it much cheaper: it follows rules that the checkpoint does not know"
        )
    if task := findings.scores.get("task"):
        notes.append(_task_note(task.learnable("domain"), task.learnable("general")))
    notes += [
        _hidden_note(name, scores.unknown_share)
        for name, scores in findings.scores.items()
        if scores.unknown_share >= HIDDEN
    ]
    few = [name for name, scores in findings.scores.items() if len(scores.nats) < FEW]
    if few:
        notes.append(f"fewer than {FEW} held-out texts of {', '.join(few)}: give more text")
    return notes


def _hidden_note(name: str, share: float) -> str:
    return (
        f"{percent(share)} of the tokens of {name} text are unknown to the tokenizer: what they "
        f"hide is in no number here, and training cannot bring it back; take a checkpoint whose "
        f"tokenizer can write this text"
    )


def _task_note(by_domain: float, by_general: float) -> str:
    nearer = "the domain" if by_domain > by_general else "general text"
    note = (
        f"the task is nearer to {nearer}: text of the domain teaches {percent(by_domain)} of its "
        f"bits, as much general text {percent(by_general)}"
    )
    return note if by_domain > by_general else f"{note}; training on this domain may not help it"


def _above(path: str) -> str:
    return "at least" if path == SPECIALISED else "below"


def _beside(path: str) -> str:
    return "less" if path == SPECIALISED else "more"


def _other(path: str) -> str:
    return STANDARD if path == SPECIALISED else SPECIALISED


def change(share: float) -> str:
    """Return a relative change as it is printed: `+12.3%`."""
    return f"{_rounded(share):+.1%}"


def percent(share: float) -> str:
    """Return a share as it is printed: `12.3%`."""
    return f"{_rounded(share):.1%}"


def _rounded(share: float) -> float:
    return round(share, 3) + 0.0  # no -0.0%
