"""How often a model's answers are preferred to those of another one, by a reward or a judge."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import CHECKPOINT, FILE, VOLATILE, require_choice, require_positive


@dataclass
class WinRate:
    """The share of prompts whose answer beats that of another checkpoint (Dubois et al., 2024)."""

    against: str = field(default="???", metadata=CHECKPOINT)  # the other checkpoint
    judge: str = "reward"  # who compares: reward (those of the stage), or server
    # rows with a prompt or messages; none: the held-out rows of the data
    path: str | None = field(default=None, metadata=FILE)
    max_tokens: int = 128  # of an answer
    temperature: float = 0.0  # 0: the likeliest token each time
    template: str = "auto"  # auto: the tokenizer's chat template where it has one; plain: bare text
    batch_size: int = 16  # answers that are written at once
    limit: int | None = 200  # at most so many prompts of a source; none: all
    resamples: int = 1000  # bootstrap resamples of prompts, for the 95 % intervals
    url: str | None = None  # of an OpenAI-compatible server, as http://localhost:8000/v1
    model: str | None = None  # that the server is asked for
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the key, where one is needed
    parallel: int = field(default=4, metadata=VOLATILE)  # requests at once

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("max_tokens", "batch_size", "resamples", "parallel"):
            require_positive(f"evaluator.win_rate.{name}", getattr(self, name))
        require_choice("evaluator.win_rate.judge", self.judge, ("reward", "server"))
        require_choice("evaluator.win_rate.template", self.template, ("auto", "plain"))
        if self.temperature < 0:
            msg = f"evaluator.win_rate.temperature is {self.temperature}; expected 0 or more"
            raise ConfigError(msg)
        lacking = [name for name in ("url", "model") if getattr(self, name) is None]
        if self.judge == "server" and lacking:
            msg = (
                f"evaluator.win_rate.judge is server, but evaluator.win_rate.{lacking[0]} is not "
                f"set: name an OpenAI-compatible server, as http://localhost:8000/v1, and its model"
            )
            raise ConfigError(msg)


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `win_rate`."""
    place = "ontogeny_plugins.win_rate.evaluator:WinRateEvaluator"
    return [Component("win_rate", config=WinRate, implementation=place)]
