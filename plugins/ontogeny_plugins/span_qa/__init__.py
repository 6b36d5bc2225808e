"""Extractive question answering: an answer is a span of the context. Objective and evaluator."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl
from ontogeny.options import require_not_negative, require_positive


@dataclass
class SpanQA:
    """Predict where the answer begins and ends (Rajpurkar et al., 2016; Devlin et al., 2019)."""

    stride: int = 128  # tokens by which windows of a context longer than data.max_length overlap

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_not_negative("objective.stride", self.stride)


@dataclass
class SpanQAMetrics:
    """Exact match and F1 of words, as SQuAD's own script counts them."""

    batch_size: int = 16  # windows per forward pass
    stride: int = 128  # as objective.stride
    longest_answer: int = 30  # tokens
    candidates: int = 20  # starts, and ends, that are combined in each window
    null_threshold: float = 0.0  # how much better no answer must score than the best answer
    resamples: int = 1000  # bootstrap resamples of rows, for the 95 % intervals

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("batch_size", "longest_answer", "candidates", "resamples"):
            require_positive(f"evaluator.span_qa.{name}", getattr(self, name))
        require_not_negative("evaluator.span_qa.stride", self.stride)


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `span_qa`."""
    return [Component("span_qa", SpanQA, "ontogeny_plugins.span_qa.objective:AnswerSpans")]


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `span_qa`."""
    implementation = "ontogeny_plugins.span_qa.evaluator:SpanQAEvaluator"
    return [Component("span_qa", SpanQAMetrics, implementation)]
