"""The rule: thresholds, and flips that are true: at the number they name, the advice turns."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ontogeny_plugins.diagnosis import Diagnosis
from ontogeny_plugins.diagnosis.measuring import Interval, Scores
from ontogeny_plugins.diagnosis.probe import Probe
from ontogeny_plugins.diagnosis.rule import (
    SPECIALISED,
    STANDARD,
    Advice,
    Findings,
    advise,
    percent,
)
from ontogeny_plugins.diagnosis.saving import Saving

LN2 = 0.6931471805599453


def scores(bits: float, texts: int = 40, **learnable: float) -> Scores:
    """Return scores of texts of ten bytes, of which others save shares of the bits."""
    nats = [bits * 10 * LN2] * texts
    taught = {name: [each * (1 - share) for each in nats] for name, share in learnable.items()}
    sums = {"tokens": 3.0, "bytes": 10.0, "words": 2.0, "unknown": 0.0}
    return Scores(nats, **{name: [each] * texts for name, each in sums.items()}, taught=taught)


def findings(
    own: float = 0.4, *, bits: float = 2.0, probes: tuple[Probe, ...] = (), saved: float = 0.3
) -> Findings:
    """Return findings of a domain that saves `own` by itself; general text costs 1, saves 5 %."""
    beyond = own - 0.05
    return Findings(
        scores={"domain": scores(bits, domain=own), "general": scores(1.0, general=0.05)},
        gap=Interval(bits - 1, bits - 1.1, bits - 0.9),
        beyond=Interval(beyond, beyond - 0.01, beyond + 0.01),
        shared_words=(0.3, 0.7),
        task_words=None,
        saving=Saving("vocabulary", 100, Interval(saved, saved, saved), 0.0, 6400, 0.1, 1e6),
        probes=probes,
    )


def probe(share: float, gain: float, forgetting: float) -> Probe:
    return Probe(share, 60, 2.0, 2.0 * (1 - gain), 1.0, 1 + forgetting)


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"\d+\.\d+", text)]


@pytest.mark.parametrize(
    ("own", "shared", "path"),
    [
        (0.09, 0.3, STANDARD),
        (0.11, 0.3, SPECIALISED),  # 5 % beyond general text, with words of its own
        (0.19, 0.7, STANDARD),
        (0.21, 0.7, SPECIALISED),  # 15 % with the words of general text
    ],
)
def test_the_path_turns_where_the_domain_teaches_enough_for_the_words_it_has(
    own: float, shared: float, path: str
) -> None:
    found = replace(findings(own), shared_words=(shared, 0.7))
    assert advise(found, Diagnosis()).path == path


@pytest.mark.parametrize("shared", [0.3, 0.7])
@pytest.mark.parametrize("own", [0.06, 0.12, 0.4])
def test_the_flip_of_the_path_names_the_bits_at_which_it_turns(own: float, shared: float) -> None:
    def advised(learnable: float) -> Advice:
        found = replace(findings(learnable), shared_words=(shared, 0.7))
        return advise(found, Diagnosis())

    turn, bits, saved = numbers(advised(own).flips[0])
    assert [bits, saved] == pytest.approx([2.0, 2 * own])
    assert advised(turn / bits - 0.01).path == STANDARD
    assert advised(turn / bits + 0.01).path == SPECIALISED


@pytest.mark.parametrize("shared", [0.3, 0.7])
def test_between_the_thresholds_the_words_decide_and_their_turn_is_named(shared: float) -> None:
    def advised(share: float) -> Advice:
        return advise(replace(findings(0.15), shared_words=(share, 0.7)), Diagnosis())

    (flip,) = (each for each in advised(shared).flips if "were shared" in each)
    turn = numbers(flip)[0] / 100
    assert turn == pytest.approx(0.85 * 0.7, abs=0.001)
    assert advised(turn + 0.002).path == STANDARD
    assert advised(turn - 0.002).path == SPECIALISED
    assert flip.startswith(STANDARD if shared == 0.3 else SPECIALISED)


def test_outside_of_the_thresholds_the_words_change_nothing_and_are_no_flip() -> None:
    for own in (0.06, 0.4):
        assert not any("were shared" in each for each in advise(findings(own), Diagnosis()).flips)


def test_text_too_short_to_compare_words_is_not_taken_for_foreign() -> None:
    found = replace(findings(0.15), shared_words=(0.0, 0.0))
    assert advise(found, Diagnosis()).path == STANDARD


def test_a_gap_alone_does_not_make_a_domain_and_is_remarked_upon() -> None:
    advice = advise(findings(0.06, bits=3.0), Diagnosis())
    assert advice.path == STANDARD
    assert "200.0% more bits per byte" in advice.notes[0]


def test_a_domain_without_a_gap_is_seen_and_remarked_upon() -> None:
    advice = advise(findings(0.4, bits=0.98), Diagnosis())
    assert advice.path == SPECIALISED
    assert "follows rules that the checkpoint does not know" in advice.notes[0]


def test_a_close_call_is_called_one() -> None:
    assert "a close call" in advise(findings(0.105), Diagnosis()).notes[0]
    assert not any("close call" in note for note in advise(findings(0.3), Diagnosis()).notes)


@pytest.mark.parametrize(("gain", "path"), [(0.04, STANDARD), (0.06, SPECIALISED)])
def test_a_probe_overrides_what_the_text_promises(gain: float, path: str) -> None:
    for own in (0.06, 0.5):
        found = findings(own, probes=(probe(0.0, gain, 0.1),))
        assert advise(found, Diagnosis()).path == path


def test_a_gain_that_general_text_shares_is_no_reason_to_specialise() -> None:
    found = findings(probes=(probe(0.0, 0.2, -0.18),))
    assert advise(found, Diagnosis()).path == STANDARD


@pytest.mark.parametrize("gain", [0.02, 0.3])
def test_the_flip_of_a_probe_names_the_bits_at_which_it_turns(gain: float) -> None:
    advice = advise(findings(probes=(probe(0.0, gain, -0.01),)), Diagnosis())
    turn = numbers(advice.flips[0])[0]
    for after, path in ((turn + 0.002, STANDARD), (turn - 0.002, SPECIALISED)):
        turned = replace(probe(0.0, gain, -0.01), domain_after=after)
        assert advise(findings(probes=(turned,)), Diagnosis()).path == path


def test_the_smallest_share_that_forgets_little_is_advised() -> None:
    probes = (probe(0.0, 0.3, 0.2), probe(0.1, 0.29, 0.015), probe(0.5, 0.2, 0.001))
    assert advise(findings(probes=probes), Diagnosis()).replay == 0.1


def test_where_every_share_forgets_much_the_largest_is_advised_and_it_is_said() -> None:
    probes = (probe(0.0, 0.3, 0.2), probe(0.25, 0.29, 0.1))
    advice = advise(findings(probes=probes), Diagnosis())
    assert advice.replay == 0.25
    assert any("more general text was not probed" in reason for reason in advice.because)


def test_without_a_probe_the_share_of_general_text_is_the_option() -> None:
    assert advise(findings(), Diagnosis(replay=0.07)).replay == 0.07


@pytest.mark.parametrize(("saved", "expand"), [(0.17, False), (0.19, True)])
def test_the_vocabulary_grows_where_a_tenth_of_the_work_is_saved(
    saved: float, expand: bool
) -> None:
    # Each token is 10 % dearer, so that 1 - 0.9 / 1.1 = 18.2 % of the tokens must be saved.
    advice = advise(findings(saved=saved), Diagnosis())
    assert advice.expand is expand
    assert advice.flips[-1].endswith("than 18.2% shorter")


def test_on_the_standard_path_new_tokens_are_not_advised() -> None:
    advice = advise(findings(0.06, saved=0.5), Diagnosis())
    assert not advice.expand
    assert len(advice.flips) == 1
    assert any("the standard path would not train new tokens" in each for each in advice.because)


@pytest.mark.parametrize("tokens", [0, None])
def test_without_new_tokens_the_vocabulary_stays(tokens: int | None) -> None:
    found = findings()
    assert found.saving is not None
    saving = None if tokens is None else replace(found.saving, tokens=tokens)
    advice = advise(replace(found, saving=saving), Diagnosis())
    assert not advice.expand
    assert any(each.startswith("the vocabulary stays: ") for each in advice.because)


@pytest.mark.parametrize(
    ("by_domain", "by_general", "expected"),
    [
        (0.3, 0.1, "the task is nearer to the domain"),
        (0.1, 0.3, "the task is nearer to general text"),
    ],
)
def test_it_is_said_to_which_text_a_task_is_nearer(
    by_domain: float, by_general: float, expected: str
) -> None:
    found = findings()
    task = scores(1.5, domain=by_domain, general=by_general)
    notes = advise(replace(found, scores={**found.scores, "task": task}), Diagnosis()).notes
    assert notes[-1].startswith(expected)
    assert ("may not help it" in notes[-1]) is (by_domain < by_general)


def test_a_handful_of_texts_is_remarked_upon() -> None:
    found = findings()
    few = {**found.scores, "general": scores(1.0, texts=9, general=0.05)}
    notes = advise(replace(found, scores=few), Diagnosis()).notes
    assert notes == ["fewer than 10 held-out texts of general: give more text"]


@pytest.mark.parametrize(("unknown", "is_said"), [(0.0, False), (0.3, True)])
def test_text_that_the_tokenizer_cannot_write_is_remarked_upon(
    unknown: float, is_said: bool
) -> None:
    found = findings()
    hidden = replace(found.scores["domain"], unknown=[unknown] * 40)  # of three tokens each
    notes = advise(replace(found, scores={**found.scores, "domain": hidden}), Diagnosis()).notes
    said = "10.0% of the tokens of domain text are unknown to the tokenizer"
    assert any(note.startswith(said) for note in notes) is is_said


def test_nothing_is_printed_as_minus_nothing() -> None:
    assert percent(-0.0001) == "0.0%"
