"""`check_plugin`: it is light to import, clashes with nobody, and all that it offers works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from ontogeny import hookspecs
from ontogeny._hydra import compose_config
from ontogeny.component import GROUPS, KINDS, LIST_KINDS, Kind
from ontogeny.configuration import SCHEMAS, typed
from ontogeny.errors import ConfigError, OntogenyError
from ontogeny.plugins import HOOKS, Plugin, registry, yaml_options
from ontogeny.spelling import suggestion
from ontogeny.testing.adapter import check_adapter
from ontogeny.testing.contract import ContractError, require
from ontogeny.testing.evaluator import check_evaluator
from ontogeny.testing.exporter import check_exporter
from ontogeny.testing.head import check_head
from ontogeny.testing.objective import check_objective
from ontogeny.testing.reward import check_reward
from ontogeny.testing.trial import trial

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

# Seconds to import: whoever asks for help must not wait for them.
HEAVY = (
    "datasets",
    "lightning",
    "peft",
    "pyarrow",
    "torch",
    "torchmetrics",
    "transformers",
    "trl",
)
CHECKS: dict[Kind, Callable[..., None]] = {
    "objective": check_objective,
    "head": check_head,
    "adapter": check_adapter,
    "evaluator": check_evaluator,
    "exporter": check_exporter,
    "reward": check_reward,
}
# Kinds that only one stage has a place for.
STAGES: dict[Kind, str] = {"reward": "reinforcement", "exporter": "export"}
LISTS = {*LIST_KINDS, "callbacks", "logger"}  # groups of which several options are chosen
LISTINGS = [*HOOKS.values(), "ontogeny_config_paths"]  # hooks that are called at start-up
START = """
import importlib, json, sys
target, heavy, listings = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")
module, _, attribute = target.partition(":")
plugin = importlib.import_module(module)
plugin = getattr(plugin, attribute) if attribute else plugin
for name in listings:
    getattr(plugin, name, list)()
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def check_plugin(name: str, *, stage: str = "pretraining", skip: Collection[str] = ()) -> None:
    """Raise ContractError for the first promise that a plugin or a component of it breaks.

    `skip` names components (`"focal"`) or kinds (`"objective"`) whose own checks are left out:
    call those yourself where they need rows, overrides or another stage.
    """
    who = f"plugin {name}"
    plugin = _installed(name, who)
    _check_hooks(who, plugin)
    _check_weight(who, plugin)
    for path, owner in registry().config_paths:
        if owner is plugin:
            _check_folder(who, path)
    for kind in KINDS:
        for component, registered in registry().components[kind].items():
            if registered.plugin is plugin and not {kind, component} & set(skip):
                _check_component(kind, component, STAGES.get(kind, stage))


def _check_component(kind: Kind, name: str, stage: str) -> None:
    if kind in CHECKS:
        CHECKS[kind](name, stage=stage)
        return
    with trial(kind, name, stage):
        pass  # what all components promise is all that can be said of a stage


def _installed(name: str, who: str) -> Plugin:
    plugins = {plugin.name: plugin for plugin in registry().plugins}
    broken = f"it is not installed{suggestion(name, plugins)}; known: {', '.join(plugins)}"
    mend = "install its package, or name its module in ONTOGENY_PLUGINS"
    require(name in plugins, who, broken, mend)
    plugin = plugins[name]
    require(not plugin.disabled, who, "it is disabled", "unset ONTOGENY_DISABLE_PLUGINS")
    problems = [problem for problem in registry().problems if f"plugin {name!r}" in problem]
    if problems:
        raise ContractError(f"{who}: {problems[0]}")
    return plugin


def _check_hooks(who: str, plugin: Plugin) -> None:
    module = sys.modules[plugin.target.partition(":")[0]]
    known = [name for name in vars(hookspecs) if name.startswith("ontogeny_")]
    forgotten = [name for name in known if hasattr(module, name) and name not in plugin.hooks]
    broken = f"{', '.join(forgotten)} lacks the mark of a hook, so nobody calls it"
    require(not forgotten, who, broken, "decorate it with @ontogeny.hookimpl")
    broken = "it has no hook, so it does nothing"
    require(bool(plugin.hooks), who, broken, f"known hooks: {', '.join(known)}")


def _check_weight(who: str, plugin: Plugin) -> None:
    """Start the plugin in a fresh process and look at what it imported."""
    listings = [name for name in LISTINGS if name in plugin.hooks]
    finished = subprocess.run(  # noqa: S603  the plugin's own module
        [sys.executable, "-c", START, plugin.target, ",".join(HEAVY), ",".join(listings)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    last = (finished.stderr.strip().splitlines() or ["no output"])[-1]
    broken = f"its module does not start in a fresh process: {last}"
    require(finished.returncode == 0, who, broken, "import all that it needs")
    heavy = json.loads(finished.stdout.splitlines()[-1])
    broken = f"its entry module imports {', '.join(heavy)}"
    mend = "keep dataclasses and hooks there; import the rest in the implementation's module"
    require(not heavy, who, broken, mend)


def _check_folder(who: str, path: str) -> None:
    """Compose each of the YAML options in a config folder."""
    found = [option for option in yaml_options(path) if option[0].split("/")[0] != "base"]
    mend = "put YAML files into folders named after groups, such as objective/, and into the wheel"
    require(bool(found), who, f"the config folder {path} holds no option", mend)
    taken = [(group, name) for group, named in SCHEMAS.items() for name in named]
    for kind, offered in registry().components.items():
        taken += [(GROUPS[kind], name) for name in offered]
    for group, name in found:
        broken = f"{group}/{name}.yaml takes the name of a component"
        require((group, name) not in taken, who, broken, "rename it: Hydra reads one of the two")
        _check_composes(who, group, name)


def _check_composes(who: str, group: str, name: str) -> None:
    key, _, folder = ("", "", "") if group.startswith("hydra/") else group.partition("/")
    choice = f"{folder}/{name}".lstrip("/")
    key = {"": group, "stage_options": "stage_options@stage"}.get(key, key)
    override = f"{key}=[{choice}]" if key in LISTS else f"{key}={choice}"
    try:
        _compose(override)
    except OntogenyError as error:
        broken = f"{group}/{name}.yaml does not compose: {error}"
        raise ContractError(f"{who}: {broken}; see `ontogeny --cfg job {override}`") from error


def _compose(override: str) -> None:
    try:
        config = compose_config([override])
    except ConfigError as error:
        if "No match in the defaults list" not in str(error):
            raise
        override = f"+{override}"  # a group of the plugin's own
        config = compose_config([override])
    if not OmegaConf.missing_keys(config):  # else the user has to say something first
        typed(config, [override])
