"""The only file that knows how Hydra is started, and what its errors look like."""

from __future__ import annotations

import os
import re
import secrets
import sys
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, NoReturn, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ontogeny.component import GROUPS
from ontogeny.configuration import RUN_KEYS, StageConfig, register, wrong_value
from ontogeny.errors import ConfigError
from ontogeny.evaluator import less_is_better
from ontogeny.options import Sweep
from ontogeny.plugins import CONFIG_MODULE, registry
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hydra.core.config_search_path import ConfigSearchPath

CONFIG_NAME = "config"
VERSION_BASE = "1.3"
FULL_ERROR = "HYDRA_FULL_ERROR"
# Hydra raises ValueError for these, which are the user's to mend.
MISUSES = {
    "Config group override must be": "a group is null; choose an option of it or drop it: ~group",
    "Only one of --run": "give only one of --run, --multirun, --cfg, --info and --shell-completion",
    "The --resolve flag": "--resolve needs --cfg beside it",
}

# Launchers and sweepers that come with an extra, by the first part of their name.
EXTRAS = {
    ("hydra/launcher", "joblib"): "sweep",
    ("hydra/launcher", "submitit"): "submitit",
    ("hydra/launcher", "ray"): "ray",
    ("hydra/sweeper", "optuna"): "optuna",
}

# Groups that decide what the root stage is, and the choices that name it: its composition and the
# component in it.
CHOOSE_STAGE = ("stage", "stage_options@stage", "lifecycle", "recipe")
STAGE_CHOICES = ("stage", "stage_options@stage")
_ALIAS = re.compile(r"([+~]*)([a-z][a-z0-9_]*)\.")  # the head of an override's key

# Where the sweep of this process writes: set when it starts, so that its table can be printed
# also when a job failed (Hydra's on_multirun_end is left out then).
sweeps: list[tuple[str, Sweep]] = []  # with what decides between the jobs

# What a sweep with Optuna is given where the user does not say: the same command tries the same
# values again, and a job that fails leaves the others alone.
OPTUNA = "hydra/sweeper=optuna"
OPTUNA_DEFAULTS = {
    "hydra.sweeper.sampler.seed": "0",
    "hydra.sweeper.max_failure_rate": "1.0",
}


class PluginConfigs(SearchPathPlugin):
    """Append the config folders of every plugin to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add one provider per plugin folder."""
        for path, plugin in registry().config_paths:
            search_path.append(provider=plugin.name, path=path)


class RememberSweep(Callback):
    """Note the folder of a sweep."""

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Keep `hydra.sweep.dir` and `sweep` for the table at the end."""
        options = cast("Sweep", OmegaConf.to_object(config.sweep))
        sweeps.append((str(config.hydra.sweep.dir), options))


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
        return _compose(canonical(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        explain_error(error, overrides)


def _compose(overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module(CONFIG_MODULE, version_base=VERSION_BASE):
        return hydra.compose(CONFIG_NAME, overrides=list(overrides), return_hydra_config=with_hydra)


def canonical(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with options of the root stage under `stage`.

    `diagnosis.probe=true` is `stage.probe=true` where the stage of the command line is `diagnosis`;
    in a lifecycle there is no such stage, and nothing changes.
    """
    own = _aliases(overrides)
    return [_in_stage(item, own) for item in overrides]


def _in_stage(item: str, own: set[str]) -> str:
    found = _ALIAS.match(item)
    if found is None or found[2] not in own:
        return item
    return f"{found[1]}stage.{item[found.end() :]}"


def _aliases(overrides: Sequence[str]) -> set[str]:
    """Return the names of the root stage, if an override begins with what may be one."""
    keys = {item.name for item in fields(StageConfig)} | {"hydra", "stages", *RUN_KEYS}
    heads = {found[2] for item in overrides if (found := _ALIAS.match(item))} - keys
    if not heads:
        return set()
    choosing = [item for item in overrides if item.partition("=")[0] in CHOOSE_STAGE]
    with suppress(HydraException, OmegaConfBaseException):
        choices = _compose(choosing, with_hydra=True).hydra.runtime.choices
        return heads & {str(choices.get(key)) for key in STAGE_CHOICES}
    return set()


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """Return the overrides among the arguments; raise ConfigError for flags that Hydra lacks."""
    parser = get_args_parser()
    parser.error = _refuse_flags  # type: ignore[method-assign]  # its own prints pages and exits
    return list(parser.parse_intermixed_args(list(arguments)).overrides)


def run_main(task: Callable[[DictConfig], object], arguments: Sequence[str]) -> None:
    """Hand the arguments to Hydra; its exceptions come out as they are, instead of sys.exit."""
    prepare()
    main = hydra.main(
        config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME, version_base=VERSION_BASE
    )
    overrides = overrides_of(arguments)
    flags = [item for item in arguments if item not in overrides]
    overrides = [*canonical(overrides), *_for_optuna(overrides)]
    # Hydra takes flags before or after all overrides, but not among them.
    before, sys.argv = sys.argv, [sys.argv[0], *overrides, *flags]
    try:
        with _full_error("1") as wished:
            main(partial(_run_task, task, wished))()
    finally:
        sys.argv = before


def _run_task(
    task: Callable[[DictConfig], object], wished: str | None, config: DictConfig
) -> object:
    """Run a job in the environment that the user gave, which its own processes inherit."""
    with _full_error(wished):
        return task(config)


@contextmanager
def _full_error(value: str | None) -> Iterator[str | None]:
    """Set the variable that makes Hydra raise its errors; yield what it was before."""
    before = os.environ.pop(FULL_ERROR, None)
    if value is not None:
        os.environ[FULL_ERROR] = value
    try:
        yield before
    finally:
        os.environ.pop(FULL_ERROR, None)
        if before is not None:
            os.environ[FULL_ERROR] = before


def _for_optuna(overrides: Sequence[str]) -> list[str]:
    """Return what a sweep with Optuna needs beside the overrides of the user."""
    if OPTUNA not in overrides:
        return []
    keys = [item.lstrip("+").partition("=")[0] for item in overrides]
    wanted = dict(OPTUNA_DEFAULTS)
    if any(key.startswith("hydra/sweeper/sampler") for key in keys):
        wanted.pop("hydra.sweeper.sampler.seed")
    given = {key: item.partition("=")[2] for key, item in zip(keys, overrides, strict=True)}
    if "sweep.metric" in given or "sweep.mode" in given:
        wanted["hydra.sweeper.direction"] = _directions(given)
    return [f"{key}={value}" for key, value in wanted.items() if key not in keys]


def _directions(given: dict[str, str]) -> str:
    """Return Optuna's word for which way each metric is to go."""
    mode, metrics = given.get("sweep.mode", "auto"), given.get("sweep.metric", "bits_per_byte")
    names = [name.strip(" '\"") for name in metrics.strip("'\"[]").split(",")]
    less = [less_is_better(name) if mode == "auto" else mode == "min" for name in names]
    words = ["minimize" if each else "maximize" for each in less]
    return words[0] if not metrics.startswith("[") else f"[{','.join(words)}]"


def _refuse_flags(message: str) -> NoReturn:
    raise ConfigError(f"{message}; see ontogeny --help")


def job_overrides() -> list[str]:
    """Return the overrides of the current Hydra job."""
    return list(HydraConfig.get().overrides.task)


def job_flags() -> list[str]:
    """Return the flags of the current Hydra job that decide what is composed."""
    job = HydraConfig.get()
    given = [each for each in job.runtime.config_sources if each.provider == "command-line"]
    flags = [f"--config-dir={each.path}" for each in given if each.schema == "file"]
    named = str(job.job.config_name)
    return flags if named == CONFIG_NAME else [*flags, f"--config-name={named}"]


def job_folder() -> str:
    """Return the run folder of the current Hydra job."""
    return str(HydraConfig.get().runtime.output_dir)


def is_sweep() -> bool:
    """Say whether the current Hydra job is one of a multirun."""
    return HydraConfig.initialized() and "MULTIRUN" in str(HydraConfig.get().mode)


def explain_error(error: Exception, overrides: Sequence[str]) -> NoReturn:
    """Raise ConfigError in our words, and in the user's, for an exception of Hydra or OmegaConf."""
    try:
        _explain(error, canonical(overrides))
    except ConfigError as explained:
        text = str(explained)
        for alias in _aliases(overrides):
            text = re.sub(r"(?<![\w.@])stage\.(?=\w)", f"{alias}.", text)
        raise ConfigError(text) from error


def _explain(error: Exception, overrides: Sequence[str]) -> NoReturn:
    text = str(error)
    cause = error.__cause__
    if isinstance(error, MissingConfigException):
        raise ConfigError(_missing_option(text)) from error
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        if "@" in key or "/" in key or "No match in the defaults list" in text:
            raise ConfigError(f"{key}: {_first_line(text)}") from error
        raise ConfigError(_unknown_key(key, overrides)) from error
    if found := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        raise ConfigError(_ambiguous(*found.groups())) from error
    wrong = cause if isinstance(cause, OmegaConfBaseException) else error
    if isinstance(wrong, OmegaConfBaseException) and wrong.full_key:
        raise ConfigError(wrong_value(wrong, wrong.full_key)) from error
    if isinstance(error, OverrideParseException):
        hint = "quote values that hold commas, brackets, spaces or = signs: 'key=\"a,b\"'"
        reason = _first_line(text.replace(f"Error parsing override '{error.override}'", ""))
        raise ConfigError(f"cannot read {error.override!r}: {reason}; {hint}") from error
    raise ConfigError(_first_line(text)) from error


def _ambiguous(key: str, value: str) -> str:
    return (
        f"{key}={value} holds a comma: -m sweeps over the values, '{key}=[{value}]' is a list, "
        f"'{key}=\"{value}\"' is one text"
    )


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "unknown error")


def _missing_option(text: str) -> str:
    from ontogeny.help import options_by_group  # noqa: PLC0415  it imports this file

    found = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if not found:
        return _first_line(text)
    group, _, name = found.group(1).rpartition("/")
    block = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
    known = block.group(1).split() if block else options_by_group().get(group, [])
    known = [option for option in known if option != "base"]
    if (extra := EXTRAS.get((group, name.partition("_")[0]))) and name not in known:
        return f"{group}={name} is not installed: pip install 'ontogeny[{extra}]'"
    if not known:
        return f"{group}: nothing that is installed offers an option of this group"
    return f"{group}={name}: no such option{suggestion(name, known)}; known: {', '.join(known)}"


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    if key in {"lifecycle", *GROUPS.values()}:
        return _no_such_group(key)
    head, _, rest = key.partition(".")
    if rest and head in _stage_names():
        return (
            f"no option {key}: {head} is not the stage of this command; its options go with "
            f"stage={head}, or in a lifecycle as stages.<name>.stage.{rest}"
        )
    known = _known_keys(key, overrides)
    if "stages" in known and head in {item.name for item in fields(StageConfig)}:
        names = [name.removeprefix("stages.") for name in known if name.count(".") == 1]
        stages = [name for name in names if f"stages.{name}.stage" in known]
        return (
            f"no option {key} beside the stages of a lifecycle, which have one each: "
            f"stages.<name>.{key}; the stages are {', '.join(stages)}"
        )
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    nearest = suggestion(key, siblings) or suggestion(key, known)
    top = sorted({name.partition(".")[0] for name in known})
    listed = siblings if parent and siblings else top
    return f"no option {key}{nearest}; known: {', '.join(listed)}"


def _no_such_group(group: str) -> str:
    from ontogeny.help import options_by_group  # noqa: PLC0415  it imports this file

    if group in options_by_group():
        return f"{group} belongs to a stage: in a lifecycle, {group}@stages.<name>.{group}=..."
    return f"{group}: nothing that is installed offers an option of this group"


def _stage_names() -> list[str]:
    from ontogeny.help import options_by_group  # noqa: PLC0415  it imports this file

    return options_by_group().get("stage", [])


def _known_keys(wrong: str, overrides: Sequence[str]) -> list[str]:
    """Return the keys of the config without what is wrong; without any key that is set, if needed.

    Group choices have no dot and decide which keys there are.
    """
    others = [item for item in overrides if item.lstrip("+~").partition("=")[0] != wrong]
    choices = [item for item in others if "." not in item.partition("=")[0]]
    for kept in (others, choices, []):
        with suppress(HydraException, OmegaConfBaseException):
            return list(_keys(_compose(kept)))
    return []


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in map(str, node):
        child = cast("object", node._get_node(name))  # noqa: SLF001  may be missing
        yield f"{prefix}{name}"
        if isinstance(child, DictConfig) and not child._is_none():  # noqa: SLF001
            yield from _keys(child, f"{prefix}{name}.")
