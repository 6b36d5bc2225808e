"""Evaluator `domain_accuracy`: what a model knows of a field, asked about the field's own words."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import FILE, require_positive

KEY = "evaluator.domain_accuracy"


@dataclass
class DomainAccuracy:
    """Multiple choice and cloze, made out of the text of a domain, or given."""

    # rows of its own with text, or with prompt (or question), choices and answer, as data.path;
    # none: those of the data
    path: str | None = field(default=None, metadata=FILE)
    limit: int | None = 200  # rows of each source, a question of each, always the same; none: all
    choices: int = 4  # words to choose from, in questions made out of text
    min_letters: int = 4  # of a word that is asked for
    max_length: int | None = None  # tokens of context before a question; none: data.max_length
    seed: int = 0  # of the sentences and the wrong words
    batch_size: int = 16  # choices in a forward pass

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("min_letters", "batch_size"):
            require_positive(f"{KEY}.{name}", getattr(self, name))
        for name in ("limit", "max_length"):
            if getattr(self, name) is not None:
                require_positive(f"{KEY}.{name}", getattr(self, name))
        if not 2 <= self.choices <= 26:
            msg = f"{KEY}.choices is {self.choices}; expected 2 to 26"
            raise ConfigError(msg)


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `domain_accuracy`."""
    implementation = "ontogeny_plugins.domain_accuracy.evaluator:DomainAccuracyEvaluator"
    return [Component("domain_accuracy", config=DomainAccuracy, implementation=implementation)]
