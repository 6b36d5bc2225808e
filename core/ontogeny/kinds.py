"""Kinds of checkpoints: what each stage starts from and leaves, checked before anything runs.

A kind is the name of a head. Heads and stages declare theirs in `Component.takes` and `.gives`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ontogeny.component import KIND_OF_HEAD, NO_CHECKPOINT
from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

    from ontogeny.component import Component
    from ontogeny.configuration import StageConfig
    from ontogeny.plugins import Registry

Kinds = frozenset[str]  # one of these; empty: not known, and so not checked
UNKNOWN: Kinds = frozenset()
KIND = "kind"  # key of lineage.json


def given_kinds(config: StageConfig, registry: Registry, taken: Kinds) -> Kinds | None:
    """Return what a stage leaves when it starts from `taken`; None: it leaves no checkpoint."""
    stage = registry.find(config.stage)[1].component
    if stage.gives is not None:
        return None if stage.gives == NO_CHECKPOINT else frozenset({stage.gives})
    head = _head(config, registry)
    return taken if head is None else frozenset({head.gives or head.name})


def require_kind(
    config: StageConfig, registry: Registry, taken: Kinds, where: str, key: str
) -> None:
    """Raise ConfigError where a stage cannot start from a checkpoint of these kinds.

    `where` says where the checkpoint comes from, `key` is the option that would name another.
    """
    stage, head = registry.find(config.stage)[1].component, _head(config, registry)
    allowed = stage.takes
    if allowed is None:
        allowed = None if head is None else head.takes
    elif KIND_OF_HEAD in allowed:
        allowed = None if head is None else (head.gives or head.name,)
    if not taken or allowed is None or taken & set(allowed):
        return
    named = stage.name if head is None else f"{stage.name} with head {head.name}"
    raise ConfigError(
        f"{named} starts from {' or '.join(allowed)}, but {where} is of the kind "
        f"{' or '.join(sorted(taken))}: the output layer that it needs is not in there; name "
        f"another checkpoint in {key}, or change the order of the stages"
    )


def require_companion(key: str, value: str, taken: Kinds, allowed: Collection[str] | None) -> None:
    """Raise ConfigError where an option names a checkpoint of a kind that it does not take."""
    if taken and allowed and not taken & set(allowed):
        raise ConfigError(
            f"{key} is {value!r}, a checkpoint of the kind {' or '.join(sorted(taken))}; expected "
            f"{' or '.join(allowed)}"
        )


def kinds_of_folder(source: str, registry: Registry) -> Kinds:
    """Return what a checkpoint folder may be, by its lineage, else by the class in its config."""
    folder = Path(source)
    kind = _read(folder / "lineage.json").get(KIND)
    if isinstance(kind, str):
        return frozenset({kind})
    classes = _read(folder / "config.json").get("architectures") or []
    heads = [each.component for each in registry.components["head"].values()]
    return frozenset(
        head.gives or head.name
        for head in heads
        for name in cast("list[str]", classes)
        if head.classes and str(name).endswith(head.classes)
    )


def _head(config: StageConfig, registry: Registry) -> Component | None:
    return None if config.head is None else registry.find(config.head)[1].component


def _read(file: Path) -> dict[str, object]:
    """Return a JSON object, empty where there is none: whoever opens the folder says why."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
