"""Adapters `freeze`, `block_expansion` and `full`: which of the model's own weights are trained."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import require_not_negative, require_positive


@dataclass
class Freeze:
    """Some weights stay as they are: the first blocks, the embeddings, or those that are named."""

    first_blocks: int = 0  # how many, from the input on
    embeddings: bool = False  # tokens and positions; with shared weights the output layer, too
    # modules or weights that are frozen: names, their ends, or regular expressions
    names: list[str] = field(default_factory=list)
    train_only: list[str] = field(default_factory=list)  # if any are named, all others are frozen

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_not_negative("adapter.freeze.first_blocks", self.first_blocks)
        if not (self.first_blocks or self.embeddings or self.names or self.train_only):
            raise ConfigError(
                "adapter.freeze freezes nothing: set first_blocks, embeddings, names or "
                "train_only, or choose adapter=[full]"
            )


@dataclass
class BlockExpansion:
    """LLaMA Pro: new blocks that do nothing yet, and alone are trained (Wu et al., 2024)."""

    every: int = 4  # one new block, a copy of the last of them, after every so many

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("adapter.block_expansion.every", self.every)


@dataclass
class Full:
    """All weights are trained, as without any adapter: for sweeps such as adapter=[full],[lora]."""


@hookimpl
def ontogeny_adapters() -> list[Component]:
    """Offer `freeze`, `block_expansion` and `full`."""
    place = "ontogeny_plugins.freeze"
    return [
        Component("freeze", config=Freeze, implementation=f"{place}.freeze:FreezeAdapter"),
        Component(
            "block_expansion",
            config=BlockExpansion,
            implementation=f"{place}.block_expansion:BlockExpansionAdapter",
        ),
        Component("full", config=Full, implementation=f"{place}.freeze:FullAdapter"),
    ]
