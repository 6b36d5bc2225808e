"""Every key that the user set must be read by somebody: a key that nothing reads is an error."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_READS = "_ontogeny_reads"


class _Tracked:
    """Mixed into the class of an options object to note which fields are read."""

    def __getattribute__(self, name: str) -> object:
        reads = object.__getattribute__(self, "__dict__").get(_READS)
        if reads is not None:
            reads.add(name)
        return object.__getattribute__(self, name)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as the plain options object, for worker processes."""
        state = dict(object.__getattribute__(self, "__dict__"))
        state.pop(_READS, None)
        plain = type(self).__mro__[2]
        return _rebuild, (plain, state)


def _rebuild(plain: type, state: dict[str, object]) -> object:
    built: object = object.__new__(plain)
    built.__dict__.update(state)
    return built


def track(options: object) -> None:
    """Note reads of this options object, and of those within it, from now on."""
    if not is_dataclass(options) or isinstance(options, _Tracked):
        return
    for item in fields(options):
        track(getattr(options, item.name))
    plain = type(options)
    tracked = type(plain.__name__, (_Tracked, plain), {"__module__": plain.__module__})
    object.__setattr__(options, "__class__", tracked)
    vars(options)[_READS] = set()


def unread(root: object, keys: Iterable[str]) -> list[str]:
    """Return those of the dotted keys below `root` that are fields which nothing has read."""
    return [key for key in keys if not _was_read(root, key.split("."))]


def _was_read(node: object, parts: list[str]) -> bool:
    """Follow the parts; what is no tracked field (a dictionary's key, say) counts as read."""
    name, *rest = parts
    if isinstance(node, dict):
        return name not in node or not rest or _was_read(node[name], rest)
    if not isinstance(node, _Tracked):
        child = object.__getattribute__(node, "__dict__").get(name)
        return child is None or not rest or _was_read(child, rest)
    attributes = object.__getattribute__(node, "__dict__")
    if name not in attributes:
        return True
    child = attributes[name]
    if rest and isinstance(child, _Tracked):
        return _was_read(child, rest)
    return name in attributes[_READS]
