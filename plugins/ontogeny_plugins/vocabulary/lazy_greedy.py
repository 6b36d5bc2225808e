"""Greedy choice of what gains most, where each choice makes others gain less (Minoux, 1978)."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def choose(
    estimates: Mapping[str, int],
    gain: Callable[[str], int],
    take: Callable[[str], None],
    size: int,
    least: int,
) -> int:
    """Take up to `size` candidates that gain `least` or more, the best first; return their gain.

    `estimates` are what candidates gain alone. A gain is computed again only when its candidate
    comes first, and whoever still comes first then is taken. Ties go by spelling.
    """
    heap = [(-estimate, candidate) for candidate, estimate in estimates.items()]
    heapq.heapify(heap)
    gained = taken = 0
    while heap and taken < size:
        _, candidate = heapq.heappop(heap)
        value = gain(candidate)
        if value < least:
            continue
        if heap and (-value, candidate) > heap[0]:
            heapq.heappush(heap, (-value, candidate))
            continue
        take(candidate)
        gained, taken = gained + value, taken + 1
    return gained
