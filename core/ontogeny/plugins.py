"""Find plugins, check what they offer, and keep who offered what.

A plugin that is broken, or that clashes with another, never stops `--help` or `ontogeny plugins`:
it becomes a `problem`, which stops a run in `Registry.check`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from ontogeny import hookspecs
from ontogeny.component import GROUPS, KINDS, Component, Kind
from ontogeny.digest import digest_file, digest_json
from ontogeny.errors import PluginError
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from importlib.resources.abc import Traversable
    from types import ModuleType

GROUP = "ontogeny"
CONFIG_MODULE = "ontogeny_conf"  # the package with the core's own config files
HOOKS: dict[Kind, str] = {kind: f"ontogeny_{kind}s" for kind in KINDS}


@dataclass
class Plugin:
    """One plugin: where it comes from and whether it works."""

    name: str
    target: str  # module[:attribute]
    origin: str  # distribution, or "local module"
    version: str
    editable: bool = False  # its files may change while its version stays
    disabled: bool = False
    error: str | None = None
    hooks: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """Name the package in an error message."""
        return f"{self.origin} {self.version}".strip()


@dataclass(frozen=True)
class Registered:
    """A component together with the plugin that offered it."""

    component: Component
    plugin: Plugin


class Registry:
    """All plugins of this process and the components they offer, by kind and name."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("ontogeny")
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self.problems: list[str] = []
        self.components: dict[Kind, dict[str, Registered]] = {kind: {} for kind in KINDS}
        self.config_paths: list[tuple[str, Plugin]] = []
        self._owners = dict.fromkeys(yaml_options(f"pkg://{CONFIG_MODULE}"), _core())
        disabled = _names("ONTOGENY_DISABLE_PLUGINS")
        for plugin in _discover(self.problems, disabled):
            self.plugins.append(plugin)
            plugin.disabled = plugin.name in disabled
            if not plugin.disabled:
                self._add(plugin)

    def check(self) -> None:
        """Raise PluginError for the first problem: no run goes on without a plugin it may need."""
        if self.problems:
            raise PluginError(self.problems[0])

    def find(self, options: object) -> tuple[Kind, Registered]:
        """Return the component to which an options object belongs, by its type."""
        for base in type(options).__mro__:
            for kind, offered in self.components.items():
                for registered in offered.values():
                    if registered.component.config is base:
                        return kind, registered
        msg = f"{type(options).__name__} are not the options of any component of a plugin"
        raise PluginError(msg)

    def get(self, kind: Kind, name: str) -> Registered:
        """Return a component by name; raise PluginError with the nearest name otherwise."""
        if name not in self.components[kind]:
            known = sorted(self.components[kind])
            msg = f"no {kind} {name!r}{suggestion(name, known)}; known: {', '.join(known)}"
            raise PluginError(msg)
        return self.components[kind][name]

    def code_version(self, plugin: Plugin) -> str:
        """Return what changes when a plugin's code does: its version, or a digest of its files.

        The files count where they can change while the version stays: in editable installs and
        local modules.
        """
        version = f"{plugin.origin} {plugin.version}"
        if not plugin.editable:
            return version
        # Ours are independent of each other; of others' packages any file may be used by any other.
        target = plugin.target if plugin.origin == GROUP else plugin.target.partition(".")[0]
        return f"{version} {source_digest(target)}"

    def core_version(self) -> str:
        """Return what changes when the core's code does."""
        return self.code_version(_core())

    def build(self, options: object) -> object:
        """Import the implementation that belongs to an options object and construct it."""
        _, registered = self.find(options)
        built: object = registered.component.load()(options)
        return built

    def _add(self, plugin: Plugin) -> None:
        try:
            module = _import(plugin.target)
            self.manager.register(module, name=plugin.name)
            plugin.hooks = sorted(_implemented(module))
            self._refuse_unknown_hooks(plugin)
            self._collect(plugin, module)
        # A plugin may fail in any way, and even exit; --help goes on.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            plugin.error = f"{type(error).__name__}: {error}".replace("\n", " ")
            self.manager.unregister(name=plugin.name)
            self.problems.append(
                f"plugin {plugin.name!r} ({plugin.where}) does not load: {plugin.error}; mend it, "
                f"uninstall it, or run without it: ONTOGENY_DISABLE_PLUGINS={plugin.name}"
            )

    def _refuse_unknown_hooks(self, plugin: Plugin) -> None:
        known = [name for name in vars(hookspecs) if name.startswith("ontogeny_")]
        for name in plugin.hooks:
            if name not in known:
                msg = f"unknown hook {name!r}{suggestion(name, known)}; known: {', '.join(known)}"
                raise PluginError(msg)

    def _collect(self, plugin: Plugin, module: object) -> None:
        for kind, hook in HOOKS.items():
            if hook not in plugin.hooks:
                continue
            for component in _sequence(getattr(module, hook)(), hook):
                if not isinstance(component, Component):
                    msg = f"{hook} returned {component!r}; expected ontogeny.Component objects"
                    raise PluginError(msg)
                self._offer(kind, component, plugin)
        if "ontogeny_config_paths" in plugin.hooks:
            hook = "ontogeny_config_paths"
            for path in _sequence(getattr(module, hook)(), hook):
                for group, name in yaml_options(str(path)):
                    self._claim(group, name, plugin)
                self.config_paths.append((str(path), plugin))

    def _offer(self, kind: Kind, component: Component, plugin: Plugin) -> None:
        registered = Registered(component, plugin)
        other = self.components[kind].setdefault(component.name, registered)
        if other is not registered and other.plugin is plugin:
            msg = f"{HOOKS[kind]} offers {component.name!r} twice"
            raise PluginError(msg)
        self._claim(GROUPS[kind], component.name, plugin)

    def _claim(self, group: str, name: str, plugin: Plugin) -> None:
        """Note who offers an option; of two, Hydra would take the first in silence."""
        other = self._owners.setdefault((group, name), plugin)
        if other is not plugin:
            self.problems.append(
                f"{group} {name!r} is offered by both {other.where} (plugin {other.name!r}) and "
                f"{plugin.where} (plugin {plugin.name!r}); uninstall one or set "
                f"ONTOGENY_DISABLE_PLUGINS={plugin.name}"
            )


@cache
def registry() -> Registry:
    """Return the plugins of this process, discovered once."""
    return Registry()


@cache
def source_digest(target: str) -> str:
    """Return the digest of the Python files of a package with all below it, or of a module."""
    module = sys.modules[target.partition(":")[0]]
    if not getattr(module, "__path__", None):
        return digest_file(Path(str(module.__file__)))
    files = [file for root in module.__path__ for file in Path(root).rglob("*.py")]
    return digest_json(sorted(digest_file(file) for file in files))


def yaml_options(path: str) -> Iterator[tuple[str, str]]:
    """Yield (group, option) for every YAML file of a config folder, as `pkg://package.folder`.

    Raises PluginError if there is no such folder.
    """
    expected = "expected pkg://package.folder, a package with __init__.py"
    if not path.startswith("pkg://"):
        msg = f"the config folder {path} is no package; {expected}"
        raise PluginError(msg)
    try:
        folder = files(path.removeprefix("pkg://").replace("/", "."))
    except (ImportError, TypeError, ValueError) as error:
        msg = f"the config folder {path} is not found: {error}; {expected}"
        raise PluginError(msg) from error
    yield from _walk(folder, "")


def _walk(folder: Traversable, group: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _walk(entry, f"{group}/{entry.name}".lstrip("/"))
        elif entry.name.endswith(".yaml") and group:
            yield group, entry.name.removesuffix(".yaml")


def _core() -> Plugin:
    distribution = Distribution.from_name(GROUP)
    return Plugin("core", "ontogeny", GROUP, distribution.version, _is_editable(distribution))


def _discover(problems: list[str], disabled: Collection[str]) -> Iterator[Plugin]:
    """Yield installed plugins (built-ins first, then by package and name), then local modules."""
    owners: dict[str, Plugin] = {}
    found = entry_points(group=GROUP)
    for entry in sorted(
        found, key=lambda entry: (_owner(entry) != GROUP, _owner(entry), entry.name)
    ):
        plugin = _from_entry_point(entry)
        other = owners.setdefault(entry.name, plugin)
        if other is plugin:
            yield plugin
        elif other.target != plugin.target and entry.name not in disabled:
            problems.append(
                f"plugin name {entry.name!r} is claimed by both {other.where} and {plugin.where}; "
                f"uninstall one of them"
            )
    for name in _names("ONTOGENY_PLUGINS"):
        if name not in owners:
            yield Plugin(name=name, target=name, origin="local module", version="", editable=True)


def _from_entry_point(entry: EntryPoint) -> Plugin:
    version = entry.dist.version if entry.dist else ""
    return Plugin(entry.name, entry.value, _owner(entry), version, _is_editable(entry.dist))


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "unknown package"


def _is_editable(distribution: Distribution | None) -> bool:
    text = distribution.read_text("direct_url.json") if distribution else None
    return bool(text) and bool(json.loads(text or "{}").get("dir_info", {}).get("editable"))


def _import(target: str) -> object:
    module_name, _, attribute = target.partition(":")
    if str(Path.cwd()) not in sys.path:  # a local module lies beside the user, not in site-packages
        sys.path.append(str(Path.cwd()))
    module: ModuleType = importlib.import_module(module_name)
    return getattr(module, attribute) if attribute else module


def _implemented(module: object) -> list[str]:
    """Return the names of the functions that carry `@hookimpl`."""
    members = inspect.getmembers(module, callable)
    return [name for name, member in members if hasattr(member, "ontogeny_impl")]


def _sequence(returned: object, hook: str) -> list[object]:
    if not isinstance(returned, list | tuple):
        msg = f"{hook} returned {returned!r}; expected a list"
        raise PluginError(msg)
    return list(returned)


def _names(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
