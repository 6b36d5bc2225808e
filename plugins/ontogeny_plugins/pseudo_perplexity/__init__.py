"""Evaluator `pseudo_perplexity`: how well a masked language model predicts held-out text."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl
from ontogeny.options import require_positive


@dataclass
class PseudoPerplexity:
    """Pseudo-log-likelihoods: each token from all the others of its text (Salazar et al., 2020).

    They are no probabilities of text: compare masked language models by them, and nothing else.
    """

    max_length: int | None = (
        None  # tokens of a window, special ones included; none: data.max_length
    )
    documents: int | None = 200  # of each source, drawn once; none: all
    tokens: int | None = 16  # to predict in each document, drawn once; none: all
    # predicted at once, far from each other, and so unseen by each other; 1 is exact
    masks_per_pass: int = 1
    within_word: bool = False  # mask the later tokens of the same word too (Kauf & Ivanova, 2023)
    batch_size: int = 32  # masked windows per forward pass
    resamples: int = 1000  # bootstrap resamples of documents, for the 95 % intervals

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        counts = {
            "max_length": self.max_length,
            "documents": self.documents,
            "tokens": self.tokens,
            "masks_per_pass": self.masks_per_pass,
            "batch_size": self.batch_size,
            "resamples": self.resamples,
        }
        for name, value in counts.items():
            if value is not None:
                require_positive(f"evaluator.pseudo_perplexity.{name}", value)


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `pseudo_perplexity`."""
    implementation = "ontogeny_plugins.pseudo_perplexity.evaluator:PseudoPerplexityEvaluator"
    return [Component("pseudo_perplexity", config=PseudoPerplexity, implementation=implementation)]
