"""The nearest name that exists, for messages about one that does not."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def suggestion(name: str, options: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the option nearest to `name`, or "" when none is close.

    Case does not count.
    """
    by_folded = {option.casefold(): option for option in options}
    close = get_close_matches(name.casefold(), by_folded, n=1)
    return f" (did you mean {by_folded[close[0]]!r}?)" if close else ""
