"""Evaluator `instruction_following`: instructions whose following a program can verify."""

from dataclasses import dataclass, field

from ontogeny import Component, hookimpl
from ontogeny.options import FILE, require_choice, require_positive

KEY = "evaluator.instruction_following"
SHIPPED = "pkg://ontogeny_plugins.instruction_following/data/prompts.jsonl"


@dataclass
class InstructionFollowing:
    """Share of verifiable instructions that are followed, as IFEval (Zhou et al., 2023) counts."""

    # rows with prompt and instructions, in IFEval's own format too, as data.path; those that ship
    # along: 40 prompts
    path: str = field(default=SHIPPED, metadata=FILE)
    limit: int | None = None  # prompts, always the same; none: all
    max_tokens: int = 256  # of an answer
    batch_size: int = 16  # prompts in a forward pass
    template: str = "auto"  # auto: the tokenizer's chat template, where it has one; or plain

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("max_tokens", "batch_size"):
            require_positive(f"{KEY}.{name}", getattr(self, name))
        if self.limit is not None:
            require_positive(f"{KEY}.limit", self.limit)
        require_choice(f"{KEY}.template", self.template, ("auto", "plain"))


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `instruction_following`."""
    implementation = "ontogeny_plugins.instruction_following.evaluator:InstructionEvaluator"
    config = InstructionFollowing
    return [Component("instruction_following", config=config, implementation=implementation)]
