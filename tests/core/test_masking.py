"""What is masked and how it is shown, against binomial intervals and closed forms."""
# B rows, T tokens, N drawn things

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ontogeny.masking import Display, Masking, Spans, Units

VOCABULARY = torch.tensor([9, 10, 60])  # the mask token, and where random ones are from
BERT = Display(0.8, 0.1)
KEPT = Display(0.0, 0.0)


def spans(rate: float, display: Display = BERT, *, stop: float = 0.2, longest: int = 10) -> Spans:
    return Spans(display, rate, stop=stop, longest=longest)


def every_masking(rate: float, display: Display = BERT) -> dict[str, Masking]:
    return {"units": Units(display, rate), "spans": spans(rate, display)}


def masked(masking: Masking, units_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
    """Return where labels are, after one draw."""
    torch.manual_seed(0)
    ids_BT = torch.full_like(units_BT, 7)
    return masking.mask(ids_BT, units_BT, documents_BT, VOCABULARY)[1] != -100


def tokens(rows: int, length: int) -> Tensor:
    return torch.arange(1, length + 1).expand(rows, length)


def deviations(hits: Tensor | float, count: int, share: float) -> float:
    """Return how many standard deviations of a binomial count the hits are off."""
    return abs(float(hits) - count * share) / math.sqrt(count * share * (1 - share))


# --------------------------------------------------------------------------------- what is masked


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_the_share_of_masked_tokens_is_within_its_binomial_interval(rate: float) -> None:
    found = masked(Units(BERT, rate), tokens(500, 400))
    assert deviations(found.sum(), 200_000, rate) < 4


def test_every_place_is_masked_equally_often_also_by_spans_at_the_ends() -> None:
    rows = 40_000
    for masking in every_masking(0.15).values():
        found = masked(masking, tokens(rows, 14))
        for place in range(14):
            assert deviations(found[:, place].sum(), rows, 0.15) < 5


def test_every_place_of_packed_documents_is_masked_equally_often() -> None:
    rows = 40_000
    units = torch.tensor([0, 1, 2, 3, 0, 1, 1, 2, 1, 2]).expand(rows, -1)
    documents = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2]).expand(rows, -1)
    for masking in every_masking(0.3).values():
        found = masked(masking, units, documents)
        for place in (1, 2, 3, 5, 6, 7, 8, 9):
            assert deviations(found[:, place].sum(), rows, 0.3) < 5


def test_what_is_no_unit_is_never_masked() -> None:
    units = torch.tensor([[0, 1, 2, 0, 0, 3, 4, 0]]).expand(5000, -1)
    for masking in every_masking(0.9).values():
        assert not masked(masking, units)[:, [0, 3, 4, 7]].any()


def test_the_tokens_of_a_word_are_masked_together_and_words_independently() -> None:
    rows = 50_000
    units = torch.tensor([0, 1, 1, 1, 2, 3, 3, 0]).expand(rows, -1)
    found = masked(Units(BERT, 0.15), units)
    assert torch.equal(found[:, 1], found[:, 2])
    assert torch.equal(found[:, 1], found[:, 3])
    assert torch.equal(found[:, 5], found[:, 6])
    assert deviations((found[:, 3] & found[:, 4]).sum(), rows, 0.15**2) < 4
    assert deviations((found[:, 4] & found[:, 5]).sum(), rows, 0.15**2) < 4


def test_words_with_the_same_number_in_two_documents_are_two_words() -> None:
    rows = 50_000
    units, documents = torch.ones(rows, 2, dtype=torch.long), torch.tensor([[0, 1]])
    found = masked(Units(BERT, 0.5), units, documents.expand(rows, -1))
    assert deviations((found[:, 0] & found[:, 1]).sum(), rows, 0.25) < 4


def lengths(found_BT: Tensor) -> Tensor:
    """Return the lengths of all runs of masked tokens that end inside of a row, [N]."""
    rows, length = found_BT.shape
    edge = torch.zeros(rows, 1, dtype=torch.long)
    steps = torch.diff(found_BT.long(), dim=1, prepend=edge, append=edge)
    starts, ends = (steps == 1).nonzero(), (steps == -1).nonzero()
    whole = (starts[:, 1] > 0) & (ends[:, 1] < length)
    return (ends - starts)[whole, 1]


def test_spans_are_as_long_as_in_spanbert() -> None:
    # Geometric with p = 0.2 up to 10 words: 3.8 in the mean (Joshi et al., 2020, section 3.1).
    weights = [0.2 * 0.8 ** (n - 1) for n in range(1, 11)]
    expected = [weight / sum(weights) for weight in weights]
    assert sum(n * share for n, share in enumerate(expected, 1)) == pytest.approx(3.8, abs=0.005)
    found = lengths(masked(spans(0.002), tokens(4000, 1000)))  # so few that they hardly touch
    assert float(found.double().mean()) == pytest.approx(3.8, abs=0.2)
    for n, share in enumerate(expected, 1):
        assert deviations((found == n).sum(), len(found), share) < 4


def test_the_longest_span_and_its_end_can_be_chosen() -> None:
    single = masked(spans(0.3, longest=1), tokens(50_000, 2))
    assert deviations(single.all(1).sum(), 50_000, 0.3**2) < 4  # neighbours know nothing of it
    found = lengths(masked(spans(0.002, stop=1e-9, longest=3), tokens(2000, 1000)))
    # Without an end before the longest, P(n) ∝ 1 for n in 1..3.
    assert float(found.double().mean()) == pytest.approx(2, abs=0.15)


def test_a_span_is_of_whole_words_and_ends_with_its_document() -> None:
    units = torch.tensor([0, 1, 1, 2, 3, 3, 0, 1, 1, 1]).expand(20_000, -1)
    documents = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 1]).expand(20_000, -1)
    found = masked(spans(0.3), units, documents)
    assert torch.equal(found[:, 1], found[:, 2])
    assert torch.equal(found[:, 7], found[:, 9])
    both = deviations((found[:, 5] & found[:, 7]).sum(), 20_000, 0.3**2)
    assert both < 4  # nothing of the one reaches the other


def test_all_can_be_masked() -> None:
    for masking in every_masking(1.0).values():
        assert masked(masking, tokens(3, 50)).all()


# --------------------------------------------------------------------------------- how it is shown


def shown(masking: Masking, rows: int = 500, length: int = 400) -> tuple[Tensor, Tensor]:
    """Return what stands for masked tokens, all of id 7, and where: [B, T] each."""
    torch.manual_seed(1)
    ids_BT, units_BT = torch.full((rows, length), 7), tokens(rows, length)
    shown_BT, labels_BT = masking.mask(ids_BT, units_BT, None, VOCABULARY)
    assert (shown_BT[labels_BT == -100] == 7).all()
    return shown_BT, labels_BT != -100


def test_eighty_percent_are_the_mask_token_ten_a_random_one_and_ten_as_they_were() -> None:
    shown_BT, masked_BT = shown(Units(BERT, 0.15))
    found = shown_BT[masked_BT]
    count = len(found)
    assert deviations((found == 9).sum(), count, 0.8) < 4
    assert deviations((found == 7).sum(), count, 0.1) < 4
    random = found[(found != 9) & (found != 7)]
    assert deviations(len(random), count, 0.1) < 4


def test_random_tokens_are_uniform_over_their_range() -> None:
    shown_BT, masked_BT = shown(Units(Display(0.0, 1.0), 1.0))
    assert masked_BT.all()
    assert set(shown_BT.flatten().tolist()) == set(range(10, 60))
    counts = torch.bincount(shown_BT.flatten(), minlength=60)[10:].double()
    expected = shown_BT.numel() / 50
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_squared - 49) < 4 * math.sqrt(2 * 49)


@pytest.mark.parametrize(("display", "id_"), [(Display(1.0, 0.0), 9), (KEPT, 7)])
def test_shares_of_one_and_none_are_exact(display: Display, id_: int) -> None:
    for masking in every_masking(0.3, display).values():
        shown_BT, masked_BT = shown(masking, 50)
        assert (shown_BT[masked_BT] == id_).all()


def test_all_tokens_of_a_span_are_shown_in_one_way() -> None:
    shown_BT, masked_BT = shown(spans(0.15))
    pair = masked_BT[:, 1:] & masked_BT[:, :-1]
    kinds_BT = torch.where(shown_BT >= 10, 1, shown_BT)
    assert torch.equal(kinds_BT[:, 1:][pair], kinds_BT[:, :-1][pair])
    found = kinds_BT[masked_BT]
    assert float((found == 9).double().mean()) == pytest.approx(0.8, abs=0.03)


# --------------------------------------------------------------------------------------- the draws


def test_the_seed_decides_the_masks() -> None:
    ids, units = torch.arange(800).view(4, 200), tokens(4, 200)

    def draw(masking: Masking, seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        return masking.mask(ids, units, None, VOCABULARY)

    for masking in every_masking(0.15).values():
        first, again, other = (draw(masking, seed) for seed in (3, 3, 4))
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[1], other[1])
