"""Tagging: a label for every word. Objective and evaluator `tagging`."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import require_choice, require_positive


@dataclass
class Tagging:
    """Predict the tag of every word, such as B-PER, I-PER and O (Ramshaw & Marcus, 1995)."""

    # names of all tags in their order, also for tags that are numbers in the rows; none: those of
    # the training rows, sorted
    tags: list[str] = field(default_factory=list)
    pieces: str = "first"  # which tokens of a word are labelled: first, or all (B- goes on as I-)
    word_separator: str = " "  # what stands between words; nothing: languages without spaces
    # by name, how much a tag counts in the loss, as class_weights.O=0.2; others: 1
    class_weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("objective.pieces", self.pieces, ("first", "all"))
        if self.word_separator.strip():
            msg = (
                f"objective.word_separator is {self.word_separator!r}; expected spaces, or nothing"
            )
            raise ConfigError(msg)
        for name, weight in self.class_weights.items():
            if weight <= 0:
                msg = f"objective.class_weights.{name} is {weight}; expected more than 0"
                raise ConfigError(msg)


@dataclass
class TaggingMetrics:
    """Precision, recall and F1 of whole spans, and accuracy of words (as conlleval and seqeval)."""

    batch_size: int = 32  # texts per forward pass
    resamples: int = 1000  # bootstrap resamples of rows, for the 95 % intervals

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("batch_size", "resamples"):
            require_positive(f"evaluator.tagging.{name}", getattr(self, name))


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `tagging`."""
    return [Component("tagging", Tagging, "ontogeny_plugins.tagging.objective:WordTagging")]


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `tagging`."""
    implementation = "ontogeny_plugins.tagging.evaluator:TaggingEvaluator"
    return [Component("tagging", TaggingMetrics, implementation)]
