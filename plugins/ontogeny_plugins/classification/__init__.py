"""Classification of texts, and the choice between texts: objectives and evaluators."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import require_choice, require_positive

TASKS = ("auto", "single_label", "multi_label", "regression", "ordinal")


@dataclass
class Classification:
    """Predict the label of a text, or of a question with its context.

    Single labels: cross-entropy. Several labels: binary cross-entropy. Numbers: squared error.
    Ordered labels: CORN (Shi et al., 2023).
    """

    # single_label, multi_label, regression, ordinal, or auto: by what the labels look like (lists
    # are several labels, numbers with decimals are to be predicted as numbers)
    task: str = "auto"
    # names of all classes in their order; none: those of the training rows, sorted
    labels: list[str] = field(default_factory=list)
    # by name, how much a class counts in the loss, as class_weights.spam=5; others: 1
    class_weights: dict[str, float] = field(default_factory=dict)
    balanced: bool = False  # classes count by rows / (classes * rows of the class)
    label_smoothing: float = 0.0  # single_label: share of the target that all classes divide

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("objective.task", self.task, TASKS)
        if not 0 <= self.label_smoothing < 1:
            msg = f"objective.label_smoothing is {self.label_smoothing}; expected 0 <= ... < 1"
            raise ConfigError(msg)
        if len(set(self.labels)) < len(self.labels):
            msg = f"objective.labels names a class twice: {', '.join(self.labels)}"
            raise ConfigError(msg)
        for name, weight in self.class_weights.items():
            if weight <= 0:
                msg = f"objective.class_weights.{name} is {weight}; expected more than 0"
                raise ConfigError(msg)


@dataclass
class MultipleChoice:
    """Choose the right one of several texts that may go on from another (Zellers et al., 2018)."""


@dataclass
class ClassificationMetrics:
    """Accuracy, F1, AUROC, calibration error and confusion matrix; for numbers, errors."""

    batch_size: int = 32  # texts per forward pass
    resamples: int = 1000  # bootstrap resamples of rows, for the 95 % intervals
    bins: int = 15  # of the confidence, for the calibration error
    per_class: int = 20  # F1 of each class and the confusion matrix, up to so many classes

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("batch_size", "resamples", "bins"):
            require_positive(f"evaluator.classification.{name}", getattr(self, name))


@dataclass
class MultipleChoiceMetrics:
    """Accuracy of the choice, and calibration error."""

    batch_size: int = 8  # rows, of several texts each, per forward pass
    resamples: int = 1000  # bootstrap resamples of rows, for the 95 % intervals
    bins: int = 15  # of the confidence, for the calibration error

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("batch_size", "resamples", "bins"):
            require_positive(f"evaluator.multiple_choice.{name}", getattr(self, name))


_PACKAGE = "ontogeny_plugins.classification"


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `classification` and `multiple_choice`."""
    return [
        Component("classification", Classification, f"{_PACKAGE}.objective:TextClassification"),
        Component("multiple_choice", MultipleChoice, f"{_PACKAGE}.choices:ChoiceOfTexts"),
    ]


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `classification` and `multiple_choice`."""
    choices = f"{_PACKAGE}.choices_evaluator:MultipleChoiceEvaluator"
    return [
        Component(
            "classification", ClassificationMetrics, f"{_PACKAGE}.evaluator:ClassificationEvaluator"
        ),
        Component("multiple_choice", MultipleChoiceMetrics, choices),
    ]
