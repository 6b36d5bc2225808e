"""Partition inheritance: the mean over the best ways to put a new token together (VIPI).

Mosin et al., 2021: of all partitions into old tokens, those of the fewest parts; of these, those
with the longest part. A row is the mean over all tokens in them, each as often as it occurs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny_plugins.vocabulary.initialisation.mixture import evenly, sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ontogeny_plugins.vocabulary.initialisation.mixture import Known, Rows


def vipi(known: Known) -> Rows:
    """Return the mean over the best partitions; where there are none, over the old pieces."""
    of = zip(known.expansion.spellings, known.expansion.pieces, strict=True)
    found = [
        [token for parts in partitions(spelling, known.vocabulary, known.prefix) for token in parts]
        or pieces
        for spelling, pieces in of
    ]
    return sums([evenly(tokens) for tokens in found])


def partitions(spelling: str, vocabulary: Mapping[str, int], prefix: str = "") -> list[list[int]]:
    """Return the ids of the partitions with the fewest parts and, of these, the longest part."""
    goes_on = bool(prefix) and spelling.startswith(prefix)
    text = spelling.removeprefix(prefix)
    # By the end of the part of the text that is looked at: all ways with the fewest tokens.
    best: list[list[list[str]]] = [[[]]]
    for end in range(1, len(text) + 1):
        ways: list[list[str]] = []
        for begin in range(end):
            token = (prefix if begin or goes_on else "") + text[begin:end]
            if token in vocabulary:
                ways += [[*way, token] for way in best[begin]]
        fewest = min(map(len, ways), default=0)
        best.append([way for way in ways if len(way) == fewest])
    lengths = [max(len(token.removeprefix(prefix)) for token in way) for way in best[-1] if way]
    ways = [way for way, length in zip(best[-1], lengths, strict=True) if length == max(lengths)]
    return [[vocabulary[token] for token in way] for way in ways]
