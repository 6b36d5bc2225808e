"""A plugin whose objective does what it should not, when it is told to."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl
from ontogeny_plugins.clm import CLM


@dataclass
class Misbehaving(CLM):
    """Causal language modelling that goes wrong at a forward pass."""

    nan_at: int | None = None  # the forward pass, from 0, whose loss is NaN
    exit_at: int | None = None  # the one that ends the process


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `misbehaving`."""
    return [
        Component(
            "misbehaving",
            config=Misbehaving,
            implementation="misbehaving_objective:MisbehavingObjective",
        )
    ]
