"""Objective `clm`: causal language modelling."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl


@dataclass
class CLM:
    """Predict each token from those before it: -Σ log p(x_t | x_<t) (Bengio et al., 2003)."""

    document_start: bool = True  # put the tokenizer's bos (else eos) token before a document
    document_end: bool = (
        True  # put the tokenizer's eos token after it, so that models learn to stop
    )


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `clm`."""
    return [Component("clm", config=CLM, implementation="ontogeny_plugins.clm.objective:CausalLM")]
