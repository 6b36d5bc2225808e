"""Evaluator `perplexity`: how well a causal language model predicts held-out text."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl
from ontogeny.options import require_positive


@dataclass
class Perplexity:
    """Nats per token, perplexity and bits per byte (comparable between tokenizers)."""

    max_length: int | None = None  # tokens of context; none: data.max_length
    batch_size: int = 8  # windows per forward pass
    resamples: int = 1000  # bootstrap resamples of documents, for the 95 % intervals

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("evaluator.perplexity.batch_size", self.batch_size)
        require_positive("evaluator.perplexity.resamples", self.resamples)
        if self.max_length is not None:
            require_positive("evaluator.perplexity.max_length", self.max_length)


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `perplexity`."""
    implementation = "ontogeny_plugins.perplexity.evaluator:PerplexityEvaluator"
    return [Component("perplexity", config=Perplexity, implementation=implementation)]
