"""Head `masked_lm`: a vocabulary-sized output layer that predicts masked tokens."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl


@dataclass
class MaskedLM:
    """A masked language modelling head, as `transformers.AutoModelForMaskedLM` builds it."""


@hookimpl
def ontogeny_heads() -> list[Component]:
    """Offer `masked_lm`."""
    implementation = "ontogeny_plugins.masked_lm.head:MaskedLMHead"
    return [
        Component(
            "masked_lm",
            config=MaskedLM,
            implementation=implementation,
            takes=("masked_lm",),
            classes=("ForMaskedLM",),
        )
    ]
