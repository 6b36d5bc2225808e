"""The content address of a stage: everything that can change its result, and nothing else."""

from __future__ import annotations

import platform
from dataclasses import Field, fields, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ontogeny.checkpoint import checkpoint_digest
from ontogeny.configuration import stable
from ontogeny.data.pipeline import digest_source, sources_of
from ontogeny.digest import DigestCache, digest_folder, digest_json
from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ontogeny.configuration import StageConfig
    from ontogeny.plugins import Registry
    from ontogeny.store import Store


COMPARED = ("domain", "general", "task")  # texts of the stages that compare


def stage_key(config: StageConfig, registry: Registry, store: Store) -> str:
    """Return the key of a stage; raise DataError or CheckpointError for missing inputs."""
    options = cast("dict[str, dict[str, object]]", stable(config))
    groups = ("model", "tokenizer", "teacher")
    inputs = {group: _take_digest(group, options[group], store) for group in groups}
    for key, _ in (
        *_named_by(config, "file"),
        *_named_by(config, "folder"),
        *_named_by(config, "checkpoint"),
    ):
        _drop(options, key.split("."))  # where something lies is not what it is
    for name in ("path", "sources", "example", *COMPARED):
        options["data"].pop(name)
    cast("dict[str, object]", options["data"]["validation"]).pop("path")
    files = _file_digests(config, store) | _checkpoint_digests(config, store)
    return digest_json(
        {
            "options": options,
            "order": {"adapter": list(config.adapter), "sources": list(config.data.sources)},
            **({"files": files} if files else {}),
            "inputs": inputs,
            "data": data_digests(config, store),
            "code": _code_versions(config, registry),
        }
    )


def require_inputs(config: StageConfig, store: Store, sources: Mapping[str, str]) -> None:
    """Raise DataError or CheckpointError for data and checkpoints (by key) that are not there."""
    data_digests(config, store)
    _file_digests(config, store)
    for key, source in sources.items():
        checkpoint_digest(key, source, store.read)


def measurement_key(
    config: StageConfig, evaluator: str, checkpoint: str, registry: Registry, store: Store
) -> str:
    """Return the key of what an evaluator of a stage measures of a checkpoint, given its digest.

    How the stage trains is no part of it.
    """
    options = cast("dict[str, dict[str, object]]", stable(config))
    for name in ("path", "sources", "example", *COMPARED):
        options["data"].pop(name)
    cast("dict[str, object]", options["data"]["validation"]).pop("path")
    own = replace(config, stage=None, objective=None, adapter={})
    own.evaluator = {evaluator: config.evaluator[evaluator]}
    stage = registry.find(config.stage)[1]
    return digest_json(
        {
            "checkpoint": checkpoint,
            "inputs": {
                key: checkpoint_digest(key, source, store.read)
                for key, source in checkpoints_of(own)
            },
            "evaluator": stable(own.evaluator),
            "head": options["head"],
            "rows": [stage.component.name, type(config.objective).__qualname__, options["data"]],
            "data": data_digests(config, store),
            "files": _file_digests(own, store),
            "numbers": [config.seed, config.precision],
            "code": [*_code_versions(own, registry), registry.code_version(stage.plugin)],
        }
    )


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that a run stands on, for lineage and status files."""
    names = ("ontogeny", "torch", "lightning", "transformers", "tokenizers", "hydra-core", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _drop(options: Mapping[str, object], key: Sequence[str]) -> None:
    """Take one option out of nested plain data."""
    *groups, name = key
    for group in groups:
        options = cast("dict[str, object]", options[group])
    cast("dict[str, object]", options)[name] = None


def component_versions(config: StageConfig, registry: Registry) -> dict[str, str]:
    """Return the package and version that each component of a stage comes from, by its key."""
    found = {}
    for key, options in components(config).items():
        registered = registry.find(options)[1]
        found[key] = f"{registered.component.name} ({registered.plugin.where})"
    return found


def checkpoints_of(config: StageConfig) -> Iterator[tuple[str, str]]:
    """Yield the checkpoints that a stage is given, with the options that name them."""
    for group in ("model", "tokenizer", "teacher"):
        if (source := getattr(config, group).source) is not None:
            yield f"{group}.source", str(source)
    yield from _own_checkpoints(config)


def _own_checkpoints(config: StageConfig) -> Iterator[tuple[str, str]]:
    """Yield the checkpoints that components' own options name, with the options."""
    for key, value in _named_by(config, "checkpoint"):
        several = value if isinstance(value, dict) else {"": value}
        for name, source in several.items():
            yield f"{key}.{name}".rstrip("."), str(source)


def _take_digest(group: str, options: dict[str, object], store: Store) -> str | None:
    source = options.pop("source")
    key = f"{group}.source"
    return None if source is None else checkpoint_digest(key, str(source), store.read)


def data_digests(config: StageConfig, store: Store) -> dict[str, object]:
    """Return the digests of the texts that a stage reads, by the name of the source."""
    data = config.data
    cache = DigestCache(store.root / "digests")
    digests: dict[str, object] = {}
    if data.sources or data.path is not None or data.example:
        for name, source in sources_of(data).items():
            own = source.validation
            held_out = None if own is None else digest_source(own, cache)
            digests[name] = [digest_source(source.path, cache), source.weight, held_out]
    for name in COMPARED:
        if (path := getattr(data, name).path) is not None:
            digests[f"data.{name}"] = digest_source(path, cache)
    if data.validation.path:
        digests["validation"] = digest_source(data.validation.path, cache)
    return digests


def _file_digests(config: StageConfig, store: Store) -> dict[str, str]:
    """Return the digests of the files and folders that components' own options name, by key."""
    cache = DigestCache(store.root / "digests")
    found = {key: digest_source(str(path), cache) for key, path in _named_by(config, "file")}
    for key, path in _named_by(config, "folder"):
        folder = Path(str(path)).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"{key} is {str(folder)!r}, which is no folder")
        found[key] = digest_folder(folder, cache=cache)
    return found


def _checkpoint_digests(config: StageConfig, store: Store) -> dict[str, str]:
    """Return the digests of the checkpoints that components' own options name."""
    return {
        key: checkpoint_digest(key, source, store.read) for key, source in _own_checkpoints(config)
    }


def _named_by(config: StageConfig, mark: str) -> Iterator[tuple[str, object]]:
    """Yield key and value of the components' options that carry a mark and are set."""
    for key, options, item in marked(config, mark):
        if (value := getattr(options, item.name)) is not None:
            yield f"{key}.{item.name}", value


def marked(config: StageConfig, mark: str) -> Iterator[tuple[str, object, Field[object]]]:
    """Yield the fields of the components' options that carry a mark: key, options and field."""
    for key, options in components(config).items():
        for item in fields(options) if is_dataclass(options) else ():
            if item.metadata.get(mark):
                yield key, options, item


def components(config: StageConfig) -> dict[str, object]:
    """Return the options of all components of a stage by their key."""
    parts = {"stage": config.stage, "objective": config.objective, "head": config.head}
    parts |= {f"adapter.{name}": options for name, options in config.adapter.items()}
    parts |= {f"evaluator.{name}": options for name, options in config.evaluator.items()}
    parts |= {f"exporter.{name}": options for name, options in config.exporter.items()}
    parts |= {f"reward.{name}": options for name, options in config.reward.items()}
    return {key: options for key, options in parts.items() if options is not None}


def _code_versions(config: StageConfig, registry: Registry) -> list[str]:
    plugins = [registry.find(options)[1].plugin for options in components(config).values()]
    return sorted({registry.code_version(plugin) for plugin in plugins} | {registry.core_version()})
