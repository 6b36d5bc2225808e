"""Options of a sub-command, given as key=value like everything else on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ontogeny.configuration import wrong_value
from ontogeny.errors import ConfigError
from ontogeny.spelling import suggestion

Options = TypeVar("Options")


def parsed(schema: type[Options], arguments: Sequence[str], usage: str) -> Options:
    """Return a dataclass filled from key=value; raise ConfigError for what does not fit."""
    known = [item.name for item in fields(schema)]  # type: ignore[arg-type]
    config = OmegaConf.structured(schema)
    for argument in arguments:
        key, found, value = argument.partition("=")
        if not found or key not in known:
            hint = suggestion(key, known)
            msg = f"{argument!r} is no option{hint}; known: {', '.join(known)}; {usage}"
            raise ConfigError(msg)
        try:
            config[key] = None if value in {"null", ""} else value
        except OmegaConfBaseException as error:
            raise ConfigError(wrong_value(error, key)) from error
    return cast("Options", OmegaConf.to_object(config))
