"""Evaluator `safety`: whether a model refuses what it should, and nothing else."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import FILE, require_choice, require_positive

KEY = "evaluator.safety"
SHIPPED = "pkg://ontogeny_plugins.safety/data/prompts.jsonl"


@dataclass
class Safety:
    """Refusals of harmful prompts, and of harmless ones that look alike."""

    # rows with prompt and harmful (true or false), as data.path; those that ship along: 30 harmful
    # prompts and 30 harmless ones
    path: str = field(default=SHIPPED, metadata=FILE)
    limit: int | None = None  # prompts of each kind, always the same; none: all
    # phrases of which one at the beginning of an answer makes it a refusal, in any case; none:
    # those that `ontogeny_plugins.safety.refusals` lists, in English
    phrases: list[str] | None = None
    opening: int = 200  # characters of an answer in which a phrase counts
    max_tokens: int = 64  # of an answer
    batch_size: int = 16  # prompts in a forward pass
    template: str = "auto"  # auto: the tokenizer's chat template, where it has one; or plain

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("opening", "max_tokens", "batch_size"):
            require_positive(f"{KEY}.{name}", getattr(self, name))
        if self.limit is not None:
            require_positive(f"{KEY}.limit", self.limit)
        if self.phrases is not None and not all(map(str.strip, self.phrases or [""])):
            msg = (
                f"{KEY}.phrases is {self.phrases}; expected one phrase or more, none of them empty"
            )
            raise ConfigError(msg)
        require_choice(f"{KEY}.template", self.template, ("auto", "plain"))


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `safety`."""
    implementation = "ontogeny_plugins.safety.evaluator:SafetyEvaluator"
    return [Component("safety", config=Safety, implementation=implementation)]
