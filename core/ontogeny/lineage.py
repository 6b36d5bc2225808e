"""`lineage.json`: what made a checkpoint, and what made the checkpoints that it was made from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ontogeny.checkpoint import checkpoint_digest, read_lineage, write_lineage
from ontogeny.configuration import plain
from ontogeny.data.hub import is_hub_name
from ontogeny.digest import digest_json
from ontogeny.keys import checkpoints_of, component_versions, data_digests, package_versions
from ontogeny.kinds import KIND

if TYPE_CHECKING:
    from ontogeny.configuration import RunConfig, StageConfig
    from ontogeny.evaluator import Metrics
    from ontogeny.plugins import Registry
    from ontogeny.store import Store

Lineage = dict[str, object]

FORMAT = 2
ANCESTORS = "ancestors"
# What decides which plugins a command finds.
ENVIRONMENT = ("ONTOGENY_PLUGINS", "ONTOGENY_DISABLE_PLUGINS")


def command_of(config: RunConfig) -> dict[str, object]:
    """Return what has to be said again to compose the same run: overrides, flags, folder."""
    return {
        "overrides": list(config.overrides),
        "flags": list(config.flags),
        "folder": str(Path.cwd()),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)},
        "stages": list(config.stages),
    }


def begin(
    name: str,
    config: StageConfig,
    key: str,
    registry: Registry,
    store: Store,
    *,
    command: Mapping[str, object],
    prefix: str,
    made: Mapping[str, str],
    kind: str | None,
) -> Lineage:
    """Return the lineage of a stage that is about to run, and leaves a checkpoint of a kind.

    `prefix` stands before the keys of the stage in the command's overrides; `made` names the stage
    of this run that has made a checkpoint, by the checkpoint's folder.
    """
    inputs, ancestors = {}, []
    for option, source in checkpoints_of(config):
        parent = {} if is_hub_name(source) else read_lineage(Path(source))
        inputs[option] = {
            "source": source if is_hub_name(source) else os.path.abspath(source),  # noqa: PTH100
            "digest": checkpoint_digest(option, source),
            "key": parent.get("key"),
            "stage_of_this_run": made.get(source),
        }
        ancestors += chain(parent)
    return {
        "format": FORMAT,
        "stage": name,
        "key": key,
        "parent": config.model.source,
        KIND: kind,
        "inputs": inputs,
        "config": plain(config),
        "data_digests": data_digests(config, store),
        "versions": package_versions(),
        "components": component_versions(config, registry),
        "command": {**command, "prefix": prefix},
        ANCESTORS: _once(ancestors),
    }


def complete(checkpoint: Path, begun: Lineage, metrics: Mapping[str, Metrics], steps: int) -> None:
    """Add what was measured to a finished checkpoint's lineage, and write its card anew.

    A stage that wrote no lineage.json gets one here.
    """
    measured = {
        evaluator: {name: metric.as_dict() for name, metric in values.items()}
        for evaluator, values in metrics.items()
    }
    lineage = {"steps": steps, **begun, **read_lineage(checkpoint), "metrics": measured}
    lineage[ANCESTORS] = lineage.pop(ANCESTORS)  # last: it is long
    write_lineage(checkpoint, lineage)


def chain(lineage: Mapping[str, object]) -> list[Lineage]:
    """Return the lineages of a checkpoint and of all that it was made from, the oldest first."""
    if not lineage:
        return []
    before = cast("list[Lineage]", lineage.get(ANCESTORS, []))
    return [*before, {name: value for name, value in lineage.items() if name != ANCESTORS}]


def inputs_of(lineage: Mapping[str, object]) -> dict[str, dict[str, str | None]]:
    """Return the checkpoints that a stage was given, by the option that names them."""
    return cast("dict[str, dict[str, str | None]]", lineage.get("inputs", {}))


def identity(lineage: Mapping[str, object]) -> str:
    """Return what tells two stages of a chain apart: the key, where there is one."""
    return str(lineage.get("key") or digest_json(json.loads(json.dumps(lineage, default=str))))


def _once(chain: Iterable[Lineage]) -> Sequence[Lineage]:
    return list({identity(each): each for each in chain}.values())
