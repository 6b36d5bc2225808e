"""The only file that knows how Hydra is started, and what its errors look like."""

from __future__ import annotations

import os
import re
import secrets
from typing import TYPE_CHECKING, NoReturn, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ontogeny.configuration import register
from ontogeny.errors import ConfigError
from ontogeny.plugins import registry
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hydra.core.config_search_path import ConfigSearchPath

CONFIG_MODULE = "ontogeny_conf"
CONFIG_NAME = "config"
VERSION_BASE = "1.3"

# Where the sweep of this process writes: set when it starts, so that its table can be printed
# also when a job failed (Hydra's on_multirun_end is left out then).
sweep_folders: list[str] = []


class PluginConfigs(SearchPathPlugin):
    """Append the config folders of every plugin to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add one provider per plugin folder."""
        for path, plugin in registry().config_paths:
            search_path.append(provider=plugin.name, path=path)


class RememberSweep(Callback):
    """Note the folder of a sweep."""

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Keep `hydra.sweep.dir` for the table at the end."""
        sweep_folders.append(str(config.hydra.sweep.dir))


def prepare() -> None:
    """Register plugins, schemas and resolvers; safe to call twice."""
    register(registry())
    OmegaConf.register_new_resolver(
        "ontogeny_suffix", lambda: secrets.token_hex(2), use_cache=True, replace=True
    )
    if PluginConfigs not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(PluginConfigs)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose a config in this process; raise ConfigError in one line when it cannot be."""
    prepare()
    try:
        return _compose(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        explain_error(error, overrides)


def _compose(overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module(CONFIG_MODULE, version_base=VERSION_BASE):
        return hydra.compose(CONFIG_NAME, overrides=list(overrides))


def run_main(task: Callable[[DictConfig], object]) -> None:
    """Hand `sys.argv` to Hydra; its exceptions come out as they are, instead of sys.exit."""
    prepare()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    main = hydra.main(
        config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME, version_base=VERSION_BASE
    )
    main(task)()


def job_overrides() -> list[str]:
    """Return the overrides of the current Hydra job."""
    return list(HydraConfig.get().overrides.task)


def job_folder() -> str:
    """Return the run folder of the current Hydra job."""
    return str(HydraConfig.get().runtime.output_dir)


def is_sweep() -> bool:
    """Say whether the current Hydra job is one of a multirun."""
    return HydraConfig.initialized() and "MULTIRUN" in str(HydraConfig.get().mode)


def explain_error(error: Exception, overrides: Sequence[str]) -> NoReturn:
    """Raise ConfigError in our words for an exception of Hydra or OmegaConf."""
    text = str(error)
    cause = error.__cause__
    if isinstance(error, MissingConfigException):
        raise ConfigError(_missing_option(text)) from error
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        if "@" in key or "/" in key or "No match in the defaults list" in text:
            raise ConfigError(f"{key}: {_first_line(text)}") from error
        raise ConfigError(_unknown_key(key, overrides)) from error
    wrong = cause if isinstance(cause, OmegaConfBaseException) else error
    if isinstance(wrong, OmegaConfBaseException) and wrong.full_key:
        raise ConfigError(_wrong_value(wrong)) from error
    if "mismatched input" in text or "no viable alternative" in text or "token recogn" in text:
        hint = "quote values that hold commas, brackets, spaces or = signs: 'key=\"a,b\"'"
        raise ConfigError(f"cannot read the overrides: {_first_line(text)}; {hint}") from error
    raise ConfigError(_first_line(text)) from error


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "unknown error")


def _missing_option(text: str) -> str:
    found = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if not found:
        return _first_line(text)
    group, _, name = found.group(1).rpartition("/")
    block = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
    known = block.group(1).split() if block else []
    listed = f"; known: {', '.join(known)}" if known else ""
    return f"{group}={name}: no such option{suggestion(name, known)}{listed}"


def _wrong_value(error: OmegaConfBaseException) -> str:
    first = _first_line(str(error))
    found = re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", first)
    if found:
        return f"{error.full_key} is {found.group(1)!r}; expected {_type_words(found.group(2))}"
    return f"{error.full_key}: {first}"


def _type_words(name: str) -> str:
    words = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
    return words.get(name, name.lower())


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    rest = [item for item in overrides if item.lstrip("+~").partition("=")[0] != key]
    try:
        config = _compose(rest)
    except (HydraException, OmegaConfBaseException):
        return f"no option {key}"
    known = list(_keys(config))
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    nearest = suggestion(key, siblings) or suggestion(key, known)
    top = sorted({name.partition(".")[0] for name in known})
    listed = siblings if parent and siblings else top
    return f"no option {key}{nearest}; known: {', '.join(listed)}"


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in node:
        child = cast("object", node._get_node(str(name)))  # noqa: SLF001  may be missing
        yield f"{prefix}{name}"
        if isinstance(child, DictConfig) and not child._is_none():  # noqa: SLF001
            yield from _keys(child, f"{prefix}{name}.")
