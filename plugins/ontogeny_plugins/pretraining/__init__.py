"""Stage `pretraining`: a model from random weights on raw text."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl


@dataclass
class Pretraining:
    """Pre-training: language and general knowledge from raw text."""

    # what the finished model is asked to continue, shown at the end of the run
    prompts: list[str] = field(default_factory=lambda: ["The", "It was", "She said"])
    sample_tokens: int = 60  # length of each continuation; 0: none are written
    temperature: float = 0.8  # of the samples; 0: the likeliest token each time

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.sample_tokens < 0 or self.temperature < 0:
            msg = "stage.sample_tokens and stage.temperature must be 0 or more"
            raise ConfigError(msg)


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `pretraining`."""
    implementation = "ontogeny_plugins.pretraining.stage:PretrainingStage"
    return [Component("pretraining", config=Pretraining, implementation=implementation)]
