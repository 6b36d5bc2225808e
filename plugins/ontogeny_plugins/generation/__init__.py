"""Evaluator `generation`: what a model writes, compared with what it should have written."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import FILE, require_choice, require_positive

KEY = "evaluator.generation"
METRICS = ("exact_match", "rouge1", "rouge2", "rougeL", "chrf", "bleu")


@dataclass
class Generation:
    """Exact match, ROUGE, chrF and BLEU of what the model writes after held-out prompts."""

    metrics: list[str] = field(default_factory=lambda: list(METRICS))  # which of these
    # rows of its own, as data.path; none: those of the data
    path: str | None = field(default=None, metadata=FILE)
    limit: int | None = 200  # rows of each source, always the same; none: all
    max_tokens: int = 128  # of an answer
    batch_size: int = 16  # prompts in a forward pass
    template: str = "auto"  # auto: the tokenizer's chat template, where it has one; or plain
    normalise: bool = True  # exact_match leaves out case, punctuation, a/an/the and extra spaces
    tokens: str = "words"  # of BLEU and ROUGE: words, or characters where no spaces are written
    temperature: float = 0.0  # 0: the likeliest token each time
    seed: int = 0  # of what is drawn
    resamples: int = 1000  # bootstrap resamples of rows, for the 95 % intervals

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("max_tokens", "batch_size", "resamples"):
            require_positive(f"{KEY}.{name}", getattr(self, name))
        if self.limit is not None:
            require_positive(f"{KEY}.limit", self.limit)
        require_choice(f"{KEY}.template", self.template, ("auto", "plain"))
        require_choice(f"{KEY}.tokens", self.tokens, ("words", "characters"))
        if not self.metrics:
            msg = f"{KEY}.metrics is empty; expected some of {', '.join(METRICS)}"
            raise ConfigError(msg)
        for metric in self.metrics:
            require_choice(f"{KEY}.metrics", metric, METRICS)
        if self.temperature < 0:
            msg = f"{KEY}.temperature is {self.temperature}; expected 0 or more"
            raise ConfigError(msg)


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `generation`."""
    implementation = "ontogeny_plugins.generation.evaluator:GenerationEvaluator"
    return [Component("generation", config=Generation, implementation=implementation)]
