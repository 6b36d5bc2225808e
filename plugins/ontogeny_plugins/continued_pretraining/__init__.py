"""Stage `continued_pretraining`: a general model becomes an expert of a domain."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl


@dataclass
class ContinuedPretraining:
    """Continued pre-training on unlabelled domain text (Gururangan et al., 2020)."""

    # what the model is asked to continue, before and after, shown at the end of the run
    prompts: list[str] = field(default_factory=lambda: ["The", "It is", "A"])
    sample_tokens: int = 40  # length of each continuation; 0: none are written
    temperature: float = 0.8  # of the samples; 0: the likeliest token each time

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.sample_tokens < 0 or self.temperature < 0:
            msg = "stage.sample_tokens and stage.temperature must be 0 or more"
            raise ConfigError(msg)


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `continued_pretraining`."""
    implementation = "ontogeny_plugins.continued_pretraining.stage:ContinuedPretrainingStage"
    return [
        Component(
            "continued_pretraining", config=ContinuedPretraining, implementation=implementation
        )
    ]
