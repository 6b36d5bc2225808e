"""The promises of a component's options: documented, typed, each with a default, composable."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from inspect import isroutine
from types import NoneType
from typing import Any, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ontogeny.explain import field_comments
from ontogeny.testing.contract import ContractError, require


def check_options(who: str, schema: type) -> None:
    """Raise ContractError for the first promise that a dataclass of options breaks."""
    name = schema.__name__
    written = schema.__doc__ and not schema.__doc__.startswith(f"{name}(")  # dataclasses' own
    mend = "say in one line what it does: `ontogeny explain` shows it"
    require(bool(written), who, f"{name} has no docstring", mend)
    _check_fields(who, schema)
    _check_structure(who, schema)
    _check_comments(who, schema)


def first_scalar(schema: type) -> str | None:
    """Return the first field that takes numbers or true and false alone: no text fits it."""
    hints = get_type_hints(schema)
    for item in fields(schema):
        kinds = set(get_args(hints[item.name]) or [hints[item.name]]) - {NoneType}
        if kinds <= {int, float, bool}:
            return item.name
    return None


def _check_fields(who: str, schema: type) -> None:
    typed = {name for each in schema.__mro__ for name in vars(each).get("__annotations__", {})}
    for name, value in vars(schema).items():
        ignored = name.startswith("_") or isroutine(value) or isinstance(value, property)
        broken = f"{schema.__name__}.{name} has no type, so it is no option"
        mend = f"write `{name}: {type(value).__name__} = {value!r}`"
        require(ignored or name in typed, who, broken, mend)
    hints = get_type_hints(schema)
    for item in fields(schema):
        broken = f"{schema.__name__}.{item.name} takes anything: its type is {hints[item.name]}"
        refuses = hints[item.name] not in {Any, object}
        require(refuses, who, broken, "name a type, such as `int | str`, that wrong values break")
        has_default = item.default is not MISSING or item.default_factory is not MISSING
        broken = f"{schema.__name__}.{item.name} has no default"
        require(has_default, who, broken, "give it one, or omegaconf.MISSING where there is none")


def _check_structure(who: str, schema: type) -> None:
    try:
        OmegaConf.structured(schema)
    except OmegaConfBaseException as error:
        broken = f"OmegaConf cannot hold {schema.__name__}: {error}"
        mend = "use numbers, text, true and false, enums, lists, dictionaries and dataclasses"
        require(False, who, broken, mend)


def _check_comments(who: str, schema: type) -> None:
    comments = _comments(who, schema)
    hints = get_type_hints(schema)
    for item in fields(schema):
        if is_dataclass(hints[item.name]):
            check_options(who, hints[item.name])
            continue
        broken = f"{schema.__name__}.{item.name} has no comment"
        mend = "write its unit or effect behind it: `ontogeny explain` shows it"
        require(item.name in comments, who, broken, mend)


def _comments(who: str, schema: type) -> dict[str, str]:
    comments: dict[str, str] = {}
    for each in reversed(schema.__mro__):
        if not is_dataclass(each) or not vars(each).get("__annotations__"):
            continue
        try:
            comments |= field_comments(each)
        except (OSError, TypeError) as error:
            line = f"{who}: the source of {each.__name__} cannot be read; write it in a file"
            raise ContractError(line) from error
    return comments
