"""What a plugin contributes: a name, its options, and where the code that does the work is."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, is_dataclass
from typing import Literal, get_args

import pluggy

from ontogeny.errors import PluginError

hookimpl = pluggy.HookimplMarker("ontogeny")

Kind = Literal["stage", "objective", "head", "adapter", "evaluator", "reward", "exporter"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# The config group that holds the options of each kind. A stage's name in the group `stage` is a
# composition (a YAML file); its own options are in `stage_options`.
GROUPS: dict[Kind, str] = {
    "stage": "stage_options",
    "objective": "objective",
    "head": "head",
    "adapter": "adapter",
    "evaluator": "evaluator",
    "reward": "reward",
    "exporter": "exporter",
}
# Lists on the command line, dictionaries in the config: adapter=[a,b] -> adapter.a.*, adapter.b.*
LIST_KINDS: frozenset[Kind] = frozenset({"adapter", "evaluator", "reward", "exporter"})

# What `Component.gives` and `Component.takes` may say beside kinds of models, which are the names
# of heads: `causal_lm`, `reward` and so on.
NO_CHECKPOINT = "no checkpoint"  # gives: metrics alone; the next stage goes on from the one before
KIND_OF_HEAD = "the kind of its head"  # takes: no weight of the head may be new

_NAME = re.compile(r"[a-z][a-z0-9_]*(/[a-z][a-z0-9_]*)?")


@dataclass(frozen=True)
class Component:
    """One stage, objective, head, adapter, evaluator, reward or exporter.

    `config` is a dataclass whose fields are the options with their defaults; `implementation` is
    `"package.module:Class"` and is imported only when a run needs it. The class is built as
    `Class(options)`.

    Heads and stages also say which kinds of checkpoints they start from, and which kind they leave:
    chains that do not fit are refused before anything runs. Kinds are names of heads.
    """

    name: str
    config: type
    implementation: str
    # Kinds that can be started from; none: for heads any, for stages what their head takes.
    takes: tuple[str, ...] | None = None
    # The kind that is left; none: for heads their own name, for stages the kind of their head, or
    # where they have none the kind that they were given.
    gives: str | None = None
    # Heads: how names of transformers' classes end that hold it, as ForCausalLM.
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could only fail later, in somebody else's hands."""
        if not _NAME.fullmatch(self.name):
            msg = f"component name {self.name!r} must be lower case letters, digits and _"
            raise PluginError(msg)
        if not (isinstance(self.config, type) and is_dataclass(self.config)):
            msg = f"component {self.name!r}: config is {self.config!r}; expected a dataclass type"
            raise PluginError(msg)
        if isinstance(self.takes, str) or isinstance(self.classes, str):
            msg = (
                f"component {self.name!r}: takes and classes are tuples of names, as ('causal_lm',)"
            )
            raise PluginError(msg)
        if self.implementation.count(":") != 1:
            msg = (
                f"component {self.name!r}: implementation is {self.implementation!r}; "
                f"expected 'package.module:Class'"
            )
            raise PluginError(msg)

    def load(self) -> type:
        """Import and return the implementing class; raise PluginError when that fails."""
        module_name, _, class_name = self.implementation.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            msg = f"component {self.name!r}: cannot import {self.implementation}: {error}"
            raise PluginError(msg) from error
        if not isinstance(found, type):
            msg = f"component {self.name!r}: {self.implementation} is {found!r}, not a class"
            raise PluginError(msg)
        return found
