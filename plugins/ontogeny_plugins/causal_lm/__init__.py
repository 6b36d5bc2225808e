"""Head `causal_lm`: a vocabulary-sized output layer that predicts the next token."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl


@dataclass
class CausalLM:
    """A language-model head, as `transformers.AutoModelForCausalLM` builds and opens it."""


@hookimpl
def ontogeny_heads() -> list[Component]:
    """Offer `causal_lm`."""
    implementation = "ontogeny_plugins.causal_lm.head:CausalLMHead"
    return [
        Component(
            "causal_lm",
            config=CausalLM,
            implementation=implementation,
            takes=("causal_lm", "masked_lm"),  # an encoder becomes a causal decoder
            classes=("ForCausalLM", "LMHeadModel"),
        )
    ]
