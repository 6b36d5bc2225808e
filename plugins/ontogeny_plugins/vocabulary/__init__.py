"""Adapter `vocabulary`: tokens of a domain, and rows for them in the model's embeddings."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import FILE, require_choice, require_not_negative, require_positive

INITIALISATIONS = (
    *("subword", "mean", "mean_noise", "vipi", "focus", "wechsel", "omp"),
    "random",
)


@dataclass
class Vocabulary:
    """Add tokens of the domain to the vocabulary, and rows for them to the model."""

    size: int | None = None  # tokens to pick from the text; none: 1000, or 0 beside a list
    tokens: list[str] = field(default_factory=list)  # tokens to add, as they stand in a text
    tokens_file: str | None = field(default=None, metadata=FILE)  # a .txt, one to a line
    source: str | None = None  # of data.sources, to pick from; none: `domain`, else all of them
    megabytes: float = 32.0  # of text to pick from, from the beginning of the source
    min_saved: int = 5  # tokens of that text that each picked token must save
    across_words: bool = False  # tokens may hold spaces; for BPE that does not split at them
    init: str = "subword"  # mean, mean_noise, subword, vipi, focus, wechsel, omp or random
    noise: float = 1e-5  # of mean_noise: its share of the covariance of the old rows
    # steps that train the new rows alone, then steps that train all embeddings, then everything
    warmup: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.size is not None:
            require_positive("adapter.vocabulary.size", self.size)
        require_positive("adapter.vocabulary.min_saved", self.min_saved)
        require_choice("adapter.vocabulary.init", self.init, INITIALISATIONS)
        for key, value in (("megabytes", self.megabytes), ("noise", self.noise)):
            if value <= 0:
                msg = f"adapter.vocabulary.{key} is {value}; expected more than 0"
                raise ConfigError(msg)
        if len(self.warmup) != 2:
            msg = (
                f"adapter.vocabulary.warmup is {self.warmup}; expected two numbers of steps: for "
                f"the new rows, then for all embeddings, as [100,200]"
            )
            raise ConfigError(msg)
        for steps in self.warmup:
            require_not_negative("adapter.vocabulary.warmup", steps)


@hookimpl
def ontogeny_adapters() -> list[Component]:
    """Offer `vocabulary`."""
    implementation = "ontogeny_plugins.vocabulary.adapter:VocabularyAdapter"
    return [Component("vocabulary", config=Vocabulary, implementation=implementation)]
