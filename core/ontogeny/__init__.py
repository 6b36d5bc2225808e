"""Ontogeny raises a language model through its whole life: stages, plugins, configs.

The public names below are all that a plugin's entry module needs, and importing them imports
neither torch nor transformers. `compose` and `run` are the Python API of the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.component import Component, hookimpl
from ontogeny.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteError,
    OntogenyError,
    PluginError,
)
from ontogeny.report.section import Section

if TYPE_CHECKING:
    from ontogeny.api import compose, run

__all__ = [
    "CheckpointError",
    "Component",
    "ConfigError",
    "DataError",
    "NonFiniteError",
    "OntogenyError",
    "PluginError",
    "Section",
    "compose",
    "hookimpl",
    "run",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the Python API on first use: Hydra costs a tenth of a second."""
    if name in {"compose", "run"}:
        from ontogeny import api as module  # noqa: PLC0415

        return getattr(module, name)
    msg = f"module 'ontogeny' has no attribute {name!r}"
    raise AttributeError(msg)
