"""The content address of a stage: everything that can change its result, and nothing else."""

from __future__ import annotations

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


def stage_key(config: StageConfig, registry: Registry, store: Store) -> str:
    """Return the key of a stage; raise DataError or CheckpointError for missing inputs."""
    options = cast("dict[str, dict[str, object]]", stable(config))
    groups = ("model", "tokenizer", "teacher")
    inputs = {group: _take_digest(group, options[group]) for group in groups}
    for name in ("path", "sources", "example"):
        options["data"].pop(name)
    cast("dict[str, object]", options["data"]["validation"]).pop("path")
    return digest_json(
        {
            "options": options,
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
            digests[name] = [digest_source(source.path, cache), source.weight]
    if data.validation.path:
        digests["validation"] = digest_source(data.validation.path, cache)
    return digests


def _code_versions(config: StageConfig, registry: Registry) -> list[str]:
    parts = [config.stage, config.objective, config.head]
    parts += [*config.adapter.values(), *config.evaluator.values()]
    plugins = [registry.find(options)[1].plugin for options in parts if options is not None]
    return sorted({registry.code_version(plugin) for plugin in plugins} | {registry.core_version()})
