"""Keys of options in what people read: found in a message, and given the name of their stage."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ontogeny.configuration import StageConfig

_KEY = re.compile(r"(?<![\w./@-])[a-z][a-z0-9_]*(?:\.[A-Za-z0-9_]+)+")
_SCALAR = re.compile(r"(?<![\w./@-])(seed|precision|preflight|resume)(?= is |=)")


def with_stage(text: str, name: str, config: StageConfig) -> str:
    """Return a message with the full keys of a lifecycle: `stages.<name>.` before each option.

    One that speaks of no option gets the name of the stage in front.
    """
    prefix = f"stages.{name}."

    def full(found: re.Match[str]) -> str:
        return prefix + found[0] if _is_option(config, found[0].split(".")) else found[0]

    said = _SCALAR.sub(rf"{prefix}\1", _KEY.sub(full, text))
    return said if prefix in said else f"stages.{name}: {said}"


def _is_option(node: object, parts: list[str]) -> bool:
    """Say whether the parts lead to an option: what looks like a key may be the name of a file."""
    first, *rest = parts
    if isinstance(node, Mapping):
        return first in node and (not rest or _is_option(node[first], rest))
    if not is_dataclass(node) or first not in {item.name for item in fields(node)}:
        return False
    child = object.__getattribute__(node, "__dict__").get(first)
    if not rest:
        return True
    return _is_option(child, rest) if is_dataclass(child) or child else isinstance(child, Mapping)


def with_prefix(text: str, prefix: str, heads: Collection[str]) -> str:
    """Return what a config was refused for with a prefix before its keys, known by their heads."""
    key = rf"(?<![\w./@-])(?=(?:{'|'.join(heads)})\.[a-z_])"
    said = re.sub(key, prefix, text)
    return said if said.startswith("stages.") or prefix in said else f"{prefix[:-1]}: {said}"
