"""Evaluator `lm_eval`: the tasks of lm-evaluation-harness, and those of local task files."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import require_not_negative, require_positive

KEY = "evaluator.lm_eval"
FOLDER = {"folder": True}  # all files in it are part of the stage's key


@dataclass
class LMEval:
    """Tasks of lm-evaluation-harness (Gao et al., 2021), run on the model as it is in memory."""

    tasks: list[str] = field(default_factory=list)  # names of tasks, groups or tags
    # folder with task files (.yaml) of your own, besides those that the package has
    path: str | None = field(default=None, metadata=FOLDER)
    k: int | None = None  # demonstrations before each question; none: as many as a task says
    limit: int | None = 200  # rows of each task, the first ones; none: all
    max_length: int | None = None  # tokens of a window; none: the context of the model
    batch_size: int = 8  # rows in a forward pass
    chat_template: bool = False  # whether prompts go through the tokenizer's chat template
    seed: int = 0  # of the demonstrations
    resamples: int = 1000  # of the bootstrap, for metrics without a formula for their error

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not self.tasks:
            msg = f"{KEY}.tasks is empty; expected names of tasks, as {KEY}.tasks=[lambada_openai]"
            raise ConfigError(msg)
        if self.k is not None:
            require_not_negative(f"{KEY}.k", self.k)
        for name in ("limit", "max_length", "batch_size", "resamples"):
            if getattr(self, name) is not None:
                require_positive(f"{KEY}.{name}", getattr(self, name))


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `lm_eval`."""
    implementation = "ontogeny_plugins.lm_eval.evaluator:LMEvalEvaluator"
    return [Component("lm_eval", config=LMEval, implementation=implementation)]
