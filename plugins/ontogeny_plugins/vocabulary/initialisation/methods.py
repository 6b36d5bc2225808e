"""The methods by the names that `adapter.vocabulary.init` has for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny_plugins.vocabulary.initialisation.focus import focus
from ontogeny_plugins.vocabulary.initialisation.mean import mean, mean_noise
from ontogeny_plugins.vocabulary.initialisation.omp import omp
from ontogeny_plugins.vocabulary.initialisation.random import random
from ontogeny_plugins.vocabulary.initialisation.subword import subword
from ontogeny_plugins.vocabulary.initialisation.vipi import vipi
from ontogeny_plugins.vocabulary.initialisation.wechsel import wechsel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ontogeny_plugins.vocabulary.initialisation.mixture import Known, Rows

METHODS: dict[str, Callable[[Known], Rows]] = {
    "mean": mean,
    "mean_noise": mean_noise,
    "subword": subword,
    "vipi": vipi,
    "focus": focus,
    "wechsel": wechsel,
    "omp": omp,
    "random": random,
}
NEED_VECTORS = ("focus", "wechsel", "omp")
