"""Compression: stage `compression`, and the adapters that prune, trim and quantise."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import FILE, require_choice, require_positive


@dataclass
class Compression:
    """Applies adapters to a checkpoint and trains nothing; what they cost is measured."""

    # relative rise of the metric, as 0.05, beyond which the stage fails; none: only reported
    budget: float | None = None
    monitor: str = "perplexity/bits_per_byte"  # the metric of an evaluator; less of it is better

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.budget is not None and self.budget <= 0:
            msg = f"stage.budget is {self.budget}; expected more than 0, or null for none"
            raise ConfigError(msg)
        if self.monitor.count("/") != 1:
            msg = (
                f"stage.monitor is {self.monitor!r}; expected <evaluator>/<metric>, as "
                f"perplexity/bits_per_byte"
            )
            raise ConfigError(msg)


@dataclass
class Magnitude:
    """Set the smallest weights of each linear layer to zero; training leaves them there."""

    sparsity: float = 0.5  # share of the weights
    # n:m, as 2:4: of m neighbours in a row at most n stay, and sparsity is not read; none: anywhere
    pattern: str | None = None
    # ends of names of layers to prune, or regexes; none: all linear ones in the blocks
    layers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _check_pruning("magnitude", self.sparsity, self.pattern)


@dataclass
class Wanda:
    """Set weights to zero that matter least to what a layer is given (Sun et al., 2023)."""

    sparsity: float = 0.5  # share of the weights of each output
    # n:m, as 2:4: of m neighbours in a row at most n stay, and sparsity is not read; none: anywhere
    pattern: str | None = None
    # ends of names of layers to prune, or regexes; none: all linear ones in the blocks
    layers: list[str] = field(default_factory=list)
    batches: int = 4  # of the data, to see what layers are given

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _check_pruning("wanda", self.sparsity, self.pattern)
        require_positive("adapter.wanda.batches", self.batches)


@dataclass
class Trimming:
    """Take tokens out of the vocabulary that a domain or language does not use, and their rows."""

    min_count: int = 1  # tokens that occur so often in the text stay
    vocab_size: int | None = None  # keep at most about so many, the most frequent; none: no limit
    path: str | None = field(
        default=None, metadata=FILE
    )  # text to count in; none: the stage's data

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("adapter.trimming.min_count", self.min_count)
        if self.vocab_size is not None:
            require_positive("adapter.trimming.vocab_size", self.vocab_size)


@dataclass
class Quantization:
    """Round the weights of linear layers to few bits (torchao, weight-only), after training."""

    dtype: str = "int8"  # int8 (a scale for each output) or int4 (one for each group)
    group_size: int = 32  # neighbouring weights of an output that share a scale; read for int4

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("adapter.quantization.dtype", self.dtype, ("int8", "int4"))
        require_positive("adapter.quantization.group_size", self.group_size)


def _check_pruning(name: str, sparsity: float, pattern: str | None) -> None:
    if not 0 < sparsity < 1:
        msg = f"adapter.{name}.sparsity is {sparsity}; expected a share between 0 and 1"
        raise ConfigError(msg)
    if pattern is None:
        return
    kept, _, group = pattern.partition(":")
    if not (kept.isdecimal() and group.isdecimal() and 0 < int(kept) < int(group)):
        msg = (
            f"adapter.{name}.pattern is {pattern!r}; expected n:m with 0 < n < m, as '2:4': of "
            f"four neighbours two stay"
        )
        raise ConfigError(msg)


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `compression`."""
    implementation = "ontogeny_plugins.compression.stage:CompressionStage"
    return [Component("compression", config=Compression, implementation=implementation)]


@hookimpl
def ontogeny_adapters() -> list[Component]:
    """Offer pruning, trimming and quantisation."""
    places = {
        "magnitude": (Magnitude, "pruning:MagnitudeAdapter"),
        "wanda": (Wanda, "wanda:WandaAdapter"),
        "trimming": (Trimming, "trimming:TrimmingAdapter"),
        "quantization": (Quantization, "quantization:QuantizationAdapter"),
    }
    return [
        Component(name, config=options, implementation=f"ontogeny_plugins.compression.{place}")
        for name, (options, place) in places.items()
    ]
