"""Heads of tasks on any backbone; for embeddings also the objective and the evaluator."""

from dataclasses import dataclass

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import require_choice, require_positive

POOLINGS = ("auto", "cls", "mean", "last")


@dataclass
class SequenceClassification:
    """Scores of classes, or one number, for a whole text."""

    # what stands for the text: cls (first token), mean, last (token), or auto: as transformers'
    # class of the family does, else the last token of a decoder and the first of an encoder
    pooling: str = "auto"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("head.pooling", self.pooling, POOLINGS)


@dataclass
class Reward:
    """One number for a whole text: how good it is."""

    pooling: str = "auto"  # as of sequence_classification; auto: the last token of a decoder
    zero: bool = True  # a new head gives 0 to every text, so that training begins at ln 2

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("head.pooling", self.pooling, POOLINGS)


@dataclass
class Value:
    """One number for every token: what is still to come (Schulman et al., 2016)."""


@dataclass
class TokenClassification:
    """Scores of classes for every token."""


@dataclass
class QuestionAnswering:
    """Scores for every token to be the first, or the last, of the answer."""


@dataclass
class MultipleChoice:
    """One score for each of the texts to choose from."""

    pooling: str = "auto"  # as of sequence_classification: auto, cls, mean or last

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("head.pooling", self.pooling, POOLINGS)


@dataclass
class Embedding:
    """One vector for a whole text (Reimers & Gurevych, 2019)."""

    pooling: str = "auto"  # cls, mean, last, or auto: last in decoders, mean in encoders
    normalise: bool | None = None  # to length 1; none: as the checkpoint says, else true

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("head.pooling", self.pooling, POOLINGS)


@dataclass
class Contrastive:
    """Texts that belong together are near, others of the batch far (InfoNCE: Oord et al., 2018).

    The loss of a row depends on the rows beside it: data.batch_size is part of what is learnt.
    """

    temperature: float = 0.05  # cosines are divided by it (Gao et al., 2021)
    symmetric: bool = False  # tell the prompt of each completion, too

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.temperature <= 0:
            raise ConfigError(f"objective.temperature is {self.temperature}; expected more than 0")


@dataclass
class RetrievalMetrics:
    """How high the text that belongs to a prompt stands among those of all held-out rows."""

    batch_size: int = 32  # texts per forward pass
    resamples: int = 1000  # bootstrap resamples of rows, for the 95 % intervals

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("batch_size", "resamples"):
            require_positive(f"evaluator.retrieval.{name}", getattr(self, name))


# Names, options, and how transformers' classes with such a head are called.
_HEADS = (
    ("sequence_classification", SequenceClassification, ("ForSequenceClassification",)),
    ("reward", Reward, ("ForSequenceClassification",)),
    ("value", Value, ()),
    ("token_classification", TokenClassification, ("ForTokenClassification",)),
    ("question_answering", QuestionAnswering, ("ForQuestionAnswering",)),
    ("multiple_choice", MultipleChoice, ("ForMultipleChoice",)),
    ("embedding", Embedding, ()),
)

_PLACE = "ontogeny_plugins.heads"


@hookimpl
def ontogeny_heads() -> list[Component]:
    """Offer a head for each task."""
    return [
        Component(name, options, f"{_PLACE}.{name}:{options.__name__}Head", classes=classes)
        for name, options, classes in _HEADS
    ]


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `contrastive`."""
    implementation = "ontogeny_plugins.heads.contrastive:ContrastiveObjective"
    return [Component("contrastive", Contrastive, implementation)]


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `retrieval`."""
    implementation = "ontogeny_plugins.heads.retrieval:RetrievalEvaluator"
    return [Component("retrieval", RetrievalMetrics, implementation)]
