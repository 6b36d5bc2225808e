"""`ontogeny explain`: what an option does, its type and its default, from the code itself."""

from __future__ import annotations

import inspect
import io
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import get_type_hints

from ontogeny.component import GROUPS
from ontogeny.configuration import SCHEMAS
from ontogeny.errors import ConfigError
from ontogeny.help import options_by_group, yaml_options
from ontogeny.plugins import CONFIG_MODULE, registry
from ontogeny.spelling import suggestion


def explain(arguments: Sequence[str]) -> str:
    """Return the explanation of `group=option`, `group`, or `group.key`.

    Raises ConfigError with the nearest name when there is no such thing.
    """
    if len(arguments) != 1:
        msg = "usage: ontogeny explain group=option | group | group.key"
        raise ConfigError(msg)
    question = arguments[0]
    group, equals, option = question.partition("=")
    if equals:
        return _explain_option(group, option)
    group, _, key = question.partition(".")
    return _explain_key(group, key) if key else _explain_group(group)


def field_comments(schema: type) -> dict[str, str]:
    """Return the comment behind, or right above, each field of a dataclass."""
    comments: dict[str, str] = {}
    above: list[str] = []
    name = ""
    source = inspect.cleandoc("\n" + inspect.getsource(schema))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.line.strip().startswith(f"{token.string}:"):
            name = token.string
            if above:
                comments[name] = " ".join(above)
            above = []
        elif token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if token.line.strip().startswith("#"):
                above.append(text)
            elif name:
                comments[name] = text
    return comments


def _explain_group(group: str) -> str:
    groups = options_by_group()
    if group not in groups:
        msg = f"no group {group!r}{suggestion(group, list(groups))}; known: {', '.join(groups)}"
        raise ConfigError(msg)
    return f"{group}: {', '.join(groups[group])}"


def _explain_option(group: str, option: str) -> str:
    named = {name: origin for each, name, origin in yaml_options() if each == group}
    for kind, registered in registry().components.items():
        if GROUPS[kind] in {group, f"{group}_options"} and option in registered:
            found = registered[option]
            key = "stage" if kind == "stage" else group
            text = _explain_schema(f"{group}={option}", key, found.component.config)
            return f"{text}\n\nFrom plugin {found.plugin.name} ({found.plugin.where})."
    if option in SCHEMAS.get(group, {}):
        return _explain_schema(f"{group}={option}", group, SCHEMAS[group][option])
    if option in named:
        return (
            f"{group}={option}: a named choice from {named[option]}\n\n{_yaml_text(group, option)}"
        )
    groups = options_by_group()
    if group not in groups:
        return _explain_group(group)
    known = groups[group]
    msg = f"no option {group}={option}{suggestion(option, known)}; known: {', '.join(known)}"
    raise ConfigError(msg)


def _yaml_text(group: str, option: str) -> str:
    from importlib.resources import files  # noqa: PLC0415

    paths = [f"pkg://{CONFIG_MODULE}", *(path for path, _ in registry().config_paths)]
    for path in paths:
        folder = files(path.removeprefix("pkg://").replace("/", "."))
        file = folder.joinpath(*group.split("/"), f"{option}.yaml")
        if file.is_file():
            return file.read_text().rstrip()
    return ""


def _explain_key(group: str, key: str) -> str:
    schemas = list(SCHEMAS.get(group, {}).values())
    kinds = [kind for kind, name in GROUPS.items() if name in {group, f"{group}_options"}]
    schemas += [r.component.config for kind in kinds for r in registry().components[kind].values()]
    found = [
        line
        for schema in schemas
        for line in _lines(group, schema)
        if _key(line) == f"{group}.{key}"
    ]
    if found:
        return "\n".join(dict.fromkeys(found))
    known = [_key(line) for schema in schemas for line in _lines(group, schema)]
    msg = f"no option {group}.{key}{suggestion(f'{group}.{key}', known)}"
    raise ConfigError(msg)


def _explain_schema(title: str, key: str, schema: type) -> str:
    doc = inspect.cleandoc(schema.__doc__ or "")
    return "\n".join([f"{title}: {doc}", "", *(_lines(key, schema))])


def _lines(prefix: str, schema: type) -> Iterator[str]:
    comments = field_comments(schema)
    hints = get_type_hints(schema)
    for item in fields(schema):
        if is_dataclass(hints[item.name]):
            yield from _lines(f"{prefix}.{item.name}", hints[item.name])
            continue
        kind = inspect.formatannotation(hints[item.name]).replace("NoneType", "None")
        line = f"{prefix}.{item.name}: {kind} = {_default(item)}"
        comment = comments.get(item.name)
        yield f"{line}  # {comment}" if comment else line


def _key(line: str) -> str:
    return line.partition(":")[0]


def _default(item: Field[object]) -> str:
    if item.default is not MISSING:
        return repr(item.default)
    if item.default_factory is not MISSING:
        return repr(item.default_factory())
    return "(required)"
