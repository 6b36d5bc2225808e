"""Composed configs: what Hydra may compose, and how a composed config becomes typed options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ontogeny import options
from ontogeny.component import GROUPS, LIST_KINDS
from ontogeny.errors import ConfigError
from ontogeny.option_keys import with_prefix
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from ontogeny.plugins import Registry

T = TypeVar("T")

# Option files in conf/ start from these: `defaults: [base, _self_]`.
SCHEMAS: dict[str, dict[str, type]] = {
    "model": {"base": options.Model},
    "tokenizer": {"base": options.Tokenizer},
    "teacher": {"base": options.Teacher},
    "data": {"base": options.Data},
    "optimizer": {"adamw": options.AdamW, "sgd": options.SGD},
    "scheduler": {"base": options.Schedule},
    "forgetting": {"base": options.Forgetting},
    "trainer": {"base": options.Trainer},
    "report": {"base": options.Report},
    "store": {"base": options.Storing},
    "sweep": {"base": options.Sweep},
}
PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true", "64-true")
RESUMES = ("auto", "never", "must")
# Of the run, beside those of its stages.
RUN_KEYS = ("report", "store", "sweep", "start_at", "stop_after")
NO_NAME = options.NO_SOURCE.removeprefix(options.STAGE_SOURCE)


@dataclass
class StageConfig:
    """All options of one stage, typed; plain dictionaries are other people's `_target_` objects."""

    stage: object
    model: options.Model = field(default_factory=options.Model)
    tokenizer: options.Tokenizer = field(default_factory=options.Tokenizer)
    teacher: options.Teacher = field(default_factory=options.Teacher)
    data: options.Data = field(default_factory=options.Data)
    objective: object | None = None
    head: object | None = None
    adapter: dict[str, object] = field(default_factory=dict)
    evaluator: dict[str, object] = field(default_factory=dict)
    exporter: dict[str, object] = field(default_factory=dict)
    reward: dict[str, object] = field(default_factory=dict)
    optimizer: object = field(default_factory=options.AdamW)
    scheduler: object = field(default_factory=options.Schedule)
    forgetting: options.Forgetting = field(default_factory=options.Forgetting)
    trainer: options.Trainer = field(default_factory=options.Trainer)
    callbacks: dict[str, object] = field(default_factory=dict, metadata=options.VOLATILE)
    logger: dict[str, object] = field(default_factory=dict, metadata=options.VOLATILE)
    seed: int = 0
    precision: str = "auto"
    preflight: bool = field(default=True, metadata=options.VOLATILE)
    resume: str = field(default="auto", metadata=options.VOLATILE)
    when: str | None = field(default=None, metadata=options.VOLATILE)  # <stage>:<path it advises>


@dataclass
class RunConfig:
    """A composed run: its stages in order, and the overrides that the user typed."""

    stages: dict[str, StageConfig]
    overrides: list[str]
    store: options.Storing = field(default_factory=options.Storing)
    sweep: options.Sweep = field(default_factory=options.Sweep)
    report: options.Report = field(default_factory=options.Report)
    start_at: str | None = None  # the stages before are left out
    stop_after: str | None = None  # the stages behind are left out
    flags: list[str] = field(default_factory=list)  # of Hydra, which decide what is composed
    is_lifecycle: bool = False  # the keys of a stage begin with `stages.<name>.`

    def prefix(self, stage: str) -> str:
        """Return what stands before the keys of a stage in overrides."""
        return f"stages.{stage}." if self.is_lifecycle else ""


def register(registry: Registry) -> None:
    """Put the options of all components and of the core into Hydra's ConfigStore."""
    store = ConfigStore.instance()
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(group=group, name=name, node=open_node(schema), provider="ontogeny")
    for kind, offered in registry.components.items():
        for name, registered in offered.items():
            node = open_node(registered.component.config)
            provider = registered.plugin.name
            group, _, leaf = f"{GROUPS[kind]}/{name}".rpartition("/")
            if kind in LIST_KINDS:
                # The options alone: a variant has its own key, `/adapter_options@dora: lora`.
                alone = group.replace(GROUPS[kind], f"{GROUPS[kind]}_options", 1)
                store.store(group=alone, name=leaf, node=node, provider=provider)
                node = OmegaConf.create({leaf: node})
            store.store(group=group, name=leaf, node=node, provider=provider)


def open_node(schema: type) -> DictConfig:
    """Return a structured node whose dictionaries take new keys without Hydra's `+`."""
    node = OmegaConf.structured(schema)
    _open_dictionaries(node, schema)
    return cast("DictConfig", node)


def _open_dictionaries(node: DictConfig, schema: type) -> None:
    for item in fields(schema):
        child = node._get_node(item.name)  # noqa: SLF001  the only access without interpolation
        if isinstance(child, DictConfig) and not child._is_none():  # noqa: SLF001
            inner = OmegaConf.get_type(child)
            if inner is dict:
                OmegaConf.set_struct(child, False)
            elif is_dataclass(inner):
                _open_dictionaries(child, inner)


def typed(config: DictConfig, overrides: list[str]) -> RunConfig:
    """Turn a composed config into typed options; raise ConfigError for what does not fit."""
    own = {key: _object(config, key) for key in RUN_KEYS if key in config}
    of_the_run = {key: value for key, value in own.items() if value is not None}
    if not config.get("stages"):
        body = {str(key): _object(config, str(key)) for key in config if key not in RUN_KEYS}
        body.pop("stages", None)
        stage = _stage("", body)
        return RunConfig({_own_name(stage): stage}, overrides, **of_the_run)  # type: ignore[arg-type]
    extra = [str(key) for key in config if key not in (*RUN_KEYS, "stages")]
    if extra:
        msg = f"{extra[0]} stands beside stages; set it in a stage, as stages.<name>.{extra[0]}"
        raise ConfigError(msg)
    named = {str(name): _named_stage(config, str(name)) for name in config.stages}
    return RunConfig(named, overrides, **of_the_run, is_lifecycle=True)  # type: ignore[arg-type]


def _named_stage(config: DictConfig, name: str) -> StageConfig:
    """Return one stage of a lifecycle; what it refuses is told with its full key."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == NO_NAME:
        msg = (
            f"stages.{name}: expected another name, of lower case letters, digits and _ (stage:"
            f"{NO_NAME} is no stage)"
        )
        raise ConfigError(msg)
    if config.stages[name] is None:
        msg = f"stages.{name} is not set; choose one with stage@stages.{name}=..., or drop it: "
        raise ConfigError(f"{msg}~stages.{name}")
    try:
        body = {str(key): _object(config.stages[name], str(key)) for key in config.stages[name]}
    except ConfigError as error:
        heads = [item.name for item in fields(StageConfig)]
        raise ConfigError(with_prefix(str(error), f"stages.{name}.", heads)) from error
    return _stage(f"stages.{name}.", body)


def _object(config: DictConfig, key: str) -> object:
    """Return the value of a key, with structured nodes as the objects that they stand for."""
    try:
        value = config[key]
        return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        raise _missing_or_wrong(error) from error


def _stage(prefix: str, body: Mapping[str, object]) -> StageConfig:
    known = [item.name for item in fields(StageConfig)]
    for key in body:
        if key not in known:
            msg = f"no option {prefix}{key}{suggestion(key, known)}; known: {', '.join(known)}"
            raise ConfigError(msg)
    if body.get("stage") is None:
        msg = f"{prefix}stage is not set; choose one with stage=<name>"
        raise ConfigError(msg)
    given = {key: value for key, value in body.items() if value is not None}
    for key, value in given.items():
        _refuse_strangers(f"{prefix}{key}", value)
    stage = StageConfig(**given)  # type: ignore[arg-type]
    _check_scalars(prefix, stage)
    _check_data(prefix, stage.data)
    return stage


def _refuse_strangers(key: str, value: object) -> None:
    """Raise ConfigError for what `+key=...` has added to an options object: nothing reads it."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_strangers(f"{key}.{name}", item)
    if not is_dataclass(value):
        return
    known = [item.name for item in fields(value)]
    for name, item in vars(value).items():
        if name not in known:
            msg = f"no option {key}.{name}{suggestion(name, known)}; known: {', '.join(known)}"
            raise ConfigError(msg)
        _refuse_strangers(f"{key}.{name}", item)


def _check_scalars(prefix: str, stage: StageConfig) -> None:
    if isinstance(stage.seed, bool) or not isinstance(stage.seed, int) or stage.seed < 0:
        msg = f"{prefix}seed is {stage.seed!r}; expected a whole number of 0 or more"
        raise ConfigError(msg)
    words = {"off": False, "false": False, "on": True, "true": True}
    preflight = words.get(str(stage.preflight).lower())
    if preflight is None:
        msg = f"{prefix}preflight is {stage.preflight!r}; expected on or off"
        raise ConfigError(msg)
    stage.preflight = preflight
    options.require_choice(f"{prefix}precision", str(stage.precision), PRECISIONS)
    options.require_choice(f"{prefix}resume", str(stage.resume), RESUMES)


def _check_data(prefix: str, data: options.Data) -> None:
    if data.path is not None and data.sources:
        msg = f"{prefix}data.path and {prefix}data.sources are both set; give one of them"
        raise ConfigError(msg)


def _own_name(stage: StageConfig) -> str:
    from ontogeny.plugins import registry  # noqa: PLC0415  configs can be typed without plugins

    return registry().find(stage.stage)[1].component.name


def _missing_or_wrong(error: OmegaConfBaseException) -> ConfigError:
    return ConfigError(wrong_value(error, error.full_key or "an option"))


def wrong_value(error: OmegaConfBaseException, key: str) -> str:
    """Say in one line what OmegaConf found wrong with the value of a key."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "wrong")
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is not set; give it a value: {key}=..."
    if inner := re.search(r"Missing mandatory value: ([\w.]+)", str(error)):  # of an interpolation
        return f"{inner[1]} is not set; give it a value: {inner[1]}=..."
    found = re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", first)
    found = found or re.match(r"Value '(.*)' is not a valid (\w+)", first)
    if "is not a ListConfig, list or tuple" in first:
        return f"{key} is no list; expected one, as '{key}=[a,b]'"
    if found:
        return f"{key} is {found.group(1)!r}; expected {_type_words(found.group(2))}"
    return f"{key}: {first}"


def _type_words(name: str) -> str:
    words = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
    return words.get(name, name.lower())


def stable(value: object) -> object:
    """Return options as plain data without what cannot change the result: for keys and hashes."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = {
            item.name: stable(object.__getattribute__(value, item.name))
            for item in fields(value)
            if not item.metadata.get("volatile")
        }
        return {"options": type(value).__qualname__, **kept}
    if isinstance(value, Mapping):
        return {str(key): stable(item) for key, item in value.items()}
    return _plain_value(value, stable)


def plain(value: object) -> object:
    """Return options as plain data with everything in it: for files that people read."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: plain(object.__getattribute__(value, item.name)) for item in fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return _plain_value(value, plain)


def _plain_value(value: object, inner: Callable[[object], object]) -> object:
    if isinstance(value, list | tuple):
        return [inner(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value
