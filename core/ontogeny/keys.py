"""The content address of a stage: everything that can change its result, and nothing else."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, cast

from ontogeny.checkpoint import checkpoint_digest
from ontogeny.configuration import stable
from ontogeny.data.pipeline import digest_source, sources_of
from ontogeny.digest import DigestCache, digest_json

if TYPE_CHECKING:
    from ontogeny.configuration import StageConfig
    from ontogeny.plugins import Registry
    from ontogeny.store import Store


COMPARED = ("domain", "general", "task")  # texts of the stages that compare


def stage_key(config: StageConfig, registry: Registry, store: Store) -> str:
    """Return the key of a stage; raise DataError or CheckpointError for missing inputs."""
    options = cast("dict[str, dict[str, object]]", stable(config))
    groups = ("model", "tokenizer", "teacher")
    inputs = {group: _take_digest(group, options[group]) for group in groups}
    for name in ("path", "sources", "example", *COMPARED):
        options["data"].pop(name)
    cast("dict[str, object]", options["data"]["validation"]).pop("path")
    files = _file_digests(config, store)
    return digest_json(
        {
            "options": options,
            "order": {"adapter": list(config.adapter), "sources": list(config.data.sources)},
            **({"files": files} if files else {}),
            "inputs": inputs,
            "data": _data_digests(config, store),
            "code": _code_versions(config, registry),
        }
    )


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that a run stands on, for lineage and status files."""
    names = ("ontogeny", "torch", "lightning", "transformers", "tokenizers", "hydra-core", "numpy")
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _take_digest(group: str, options: dict[str, object]) -> str | None:
    source = options.pop("source")
    return None if source is None else checkpoint_digest(f"{group}.source", str(source))


def _data_digests(config: StageConfig, store: Store) -> dict[str, object]:
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


def _file_digests(config: StageConfig, store: Store) -> list[str]:
    """Return the digests of the files that components' own options name."""
    cache = DigestCache(store.root / "digests")
    parts = [config.stage, config.objective, config.head]
    parts += [*config.adapter.values(), *config.evaluator.values()]
    paths = [
        getattr(options, item.name)
        for options in parts
        if is_dataclass(options)
        for item in fields(options)
        if item.metadata.get("file")
    ]
    return [digest_source(path, cache) for path in paths if path is not None]


def _code_versions(config: StageConfig, registry: Registry) -> list[str]:
    parts = [config.stage, config.objective, config.head]
    parts += [*config.adapter.values(), *config.evaluator.values()]
    plugins = [registry.find(options)[1].plugin for options in parts if options is not None]
    return sorted({registry.code_version(plugin) for plugin in plugins} | {registry.core_version()})
