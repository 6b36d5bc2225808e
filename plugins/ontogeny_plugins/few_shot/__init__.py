"""Evaluator `few_shot`: what a model learns from examples in its context."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import FILE, require_choice, require_not_negative, require_positive

KEY = "evaluator.few_shot"


@dataclass
class FewShot:
    """Accuracy after k examples in the context (Brown et al., 2020): in-context learning."""

    k: int = 5  # demonstrations before each question
    # rows with question (or prompt) and answer, and choices where there are some, as data.path;
    # none: those of the data
    path: str | None = field(default=None, metadata=FILE)
    # rows that demonstrations are drawn from, as data.path; none: the other rows of `path`, or of
    # the data
    demonstrations: str | None = field(default=None, metadata=FILE)
    limit: int | None = 200  # questions of each source, always the same; none: all
    seed: int = 0  # of the demonstrations, which every question has its own of
    question: str = "Question: {question}\nAnswer:"  # how a question stands in the context
    before_answer: str = " "  # between a question and its answer
    between: str = "\n\n"  # between one demonstration and the next; ends an answer that is written
    normalise: str = "bytes"  # accuracy_normalised: log p for each of the choice's bytes or tokens
    max_tokens: int = 32  # of an answer that is written, where there are no choices
    batch_size: int = 16  # choices, or questions, in a forward pass

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_not_negative(f"{KEY}.k", self.k)
        for name in ("max_tokens", "batch_size"):
            require_positive(f"{KEY}.{name}", getattr(self, name))
        if self.limit is not None:
            require_positive(f"{KEY}.limit", self.limit)
        require_choice(f"{KEY}.normalise", self.normalise, ("bytes", "tokens"))
        if "{question}" not in self.question:
            msg = f"{KEY}.question is {self.question!r}; expected a text with {{question}} in it"
            raise ConfigError(msg)
        if not self.between:
            msg = (
                f"{KEY}.between is empty; expected what separates demonstrations, such as '\\n\\n'"
            )
            raise ConfigError(msg)


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `few_shot`."""
    implementation = "ontogeny_plugins.few_shot.evaluator:FewShotEvaluator"
    return [Component("few_shot", config=FewShot, implementation=implementation)]
