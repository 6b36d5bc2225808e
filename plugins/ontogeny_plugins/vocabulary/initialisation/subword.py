"""Fast vocabulary transfer: the mean of the old pieces (Gee et al., 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny_plugins.vocabulary.initialisation.mixture import evenly, sums

if TYPE_CHECKING:
    from ontogeny_plugins.vocabulary.initialisation.mixture import Known, Rows


def subword(known: Known) -> Rows:
    """Return the mean of the tokens that the old tokenizer makes of each new one."""
    return sums([evenly(pieces) for pieces in known.expansion.pieces])
