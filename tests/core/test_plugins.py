"""Plugins: found, checked, listed; none of them can break the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ontogeny import PluginError, compose
from ontogeny.component import KINDS
from ontogeny.help import plugins_text
from ontogeny.liveness import track
from ontogeny.options import Data
from ontogeny.plugins import Plugin, Registry, registry, source_digest

Local = Callable[..., None]

OBJECTIVE = """
from dataclasses import dataclass
from ontogeny import Component, hookimpl

@dataclass
class {options}:
    '''A number.'''
    size: int = 3  # of it

@hookimpl
def ontogeny_objectives():
    return [Component("{name}", config={options}, implementation="collections:Counter")]
"""
HOOK = """
from ontogeny import hookimpl

@hookimpl
def {}():
    {}
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    """Return a function that installs a package with plugins, as pip leaves it."""
    folder = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(folder)

    def install(name: str, version: str, entry_points: dict[str, str], **modules: str) -> None:
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{key} = {value}" for key, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[ontogeny]", *lines]))
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        registry.cache_clear()

    yield install
    registry.cache_clear()


def problem() -> str:
    (only,) = registry().problems
    return only


def test_the_built_in_plugins_come_from_the_group_that_all_use() -> None:
    plugins = {plugin.name: plugin for plugin in registry().plugins}
    assert {"causal_lm", "clm", "perplexity", "pretraining"} <= plugins.keys()
    assert plugins["clm"].origin == "ontogeny"
    assert plugins["clm"].version == "0.1.0"
    assert registry().problems == []


def test_a_local_module_is_a_plugin(local_plugin: Local) -> None:
    local_plugin("local_one", OBJECTIVE.format(name="one", options="One"))
    found = registry().get("objective", "one")
    assert found.plugin.origin == "local module"
    options = compose(["objective=one", "objective.size=7"]).stages["pretraining"].objective
    assert vars(options) == {"size": 7}


def test_an_installed_package_is_a_plugin(packages: Local) -> None:
    text = OBJECTIVE.format(name="two", options="Two")
    packages("pack-two", "2.5", {"two": "two_module"}, two_module=text)
    assert registry().get("objective", "two").plugin.where == "pack-two 2.5"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("absent", "import nothing_like_it", "No module named 'nothing_like_it'"),
        ("broken", "1 / 0", "ZeroDivisionError: division by zero"),
        ("leaving", "import sys; sys.exit('bye')", "SystemExit: bye"),
        ("misspelt", HOOK.format("ontogeny_heds", "return []"), "did you mean 'ontogeny_heads'"),
        ("no_list", HOOK.format("ontogeny_heads", "return 3"), "returned 3; expected a list"),
        ("strange", HOOK.format("ontogeny_heads", "return ['a']"), "expected ontogeny.Component"),
        ("homeless", HOOK.format("ontogeny_config_paths", "return ['pkg://nowhere']"), "nowhere"),
        ("pathless", HOOK.format("ontogeny_config_paths", "return ['/etc']"), "expected pkg://"),
    ],
)
def test_a_plugin_that_does_not_load_stops_a_run_and_nothing_else(
    name: str, text: str, reason: str, local_plugin: Local
) -> None:
    local_plugin(name, text)
    assert reason in problem()
    assert f"plugin '{name}' (local module) does not load" in problem()
    assert problem().endswith(f"run without it: ONTOGENY_DISABLE_PLUGINS={name}")
    assert registry().get("objective", "clm")
    with pytest.raises(PluginError, match=name):
        registry().check()


def test_a_broken_plugin_is_listed_with_its_reason(local_plugin: Local) -> None:
    local_plugin("broken", "1 / 0")
    row = next(line for line in plugins_text().splitlines() if line.startswith("broken"))
    assert row.split(maxsplit=4)[1:4] == ["local", "module", "broken"]
    assert "ZeroDivisionError" in row


def test_a_plugin_can_be_disabled_by_name(
    local_plugin: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_plugin("broken", "1 / 0")
    monkeypatch.setenv("ONTOGENY_DISABLE_PLUGINS", "broken, perplexity")
    registry.cache_clear()
    registry().check()
    assert "perplexity" not in registry().components["evaluator"]
    states = {line.split()[0]: line.split()[-1] for line in plugins_text().splitlines()}
    assert states["broken"] == states["perplexity"] == "disabled"


def test_two_packages_that_offer_one_name_are_both_named(packages: Local) -> None:
    for letter in "ab":
        text = OBJECTIVE.format(name="same", options="Same")
        entry_points = {f"plugin_{letter}": f"module_{letter}"}
        packages(f"pack-{letter}", "1.0", entry_points, **{f"module_{letter}": text})
    assert problem() == (
        "objective 'same' is offered by both pack-a 1.0 (plugin 'plugin_a') and pack-b 1.0 "
        "(plugin 'plugin_b'); uninstall one or set ONTOGENY_DISABLE_PLUGINS=plugin_b"
    )


def test_a_package_cannot_replace_what_is_built_in(packages: Local) -> None:
    text = OBJECTIVE.format(name="clm", options="Mine")
    packages("aaa", "1.0", {"mine": "mine_module"}, mine_module=text)
    assert "offered by both ontogeny 0.1.0 (plugin 'clm') and aaa 1.0" in problem()
    assert registry().get("objective", "clm").plugin.name == "clm"


def test_one_plugin_that_offers_a_name_twice_does_not_load(local_plugin: Local) -> None:
    twice = OBJECTIVE.format(name="twice", options="Twice")
    offer = 'Component("twice", config=Twice, implementation="collections:Counter")'
    local_plugin("twice", twice.replace(f"[{offer}]", f"[{offer}, {offer}]"))
    assert "ontogeny_objectives offers 'twice' twice" in problem()


def test_two_packages_that_claim_one_plugin_name_are_both_named(packages: Local) -> None:
    for letter in "ab":
        text = OBJECTIVE.format(name=f"thing_{letter}", options="Thing")
        packages(f"pack-{letter}", "1.0", {"same": f"same_{letter}"}, **{f"same_{letter}": text})
    assert problem().startswith("plugin name 'same' is claimed by both pack-a 1.0 and pack-b 1.0")


def test_a_name_that_two_packages_claim_can_be_disabled(
    packages: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    for letter in "ab":
        packages(f"pack-{letter}", "1.0", {"same": f"nowhere_{letter}"})
    monkeypatch.setenv("ONTOGENY_DISABLE_PLUGINS", "same")
    registry.cache_clear()
    registry().check()


def test_yaml_that_takes_the_name_of_another_option_names_both(local_plugin: Local) -> None:
    for name in ("first", "second"):
        files = {
            f"{name}_files/conf/__init__.py": "",
            f"{name}_files/conf/model/small_one.yaml": "defaults: [base, _self_]",
        }
        hook = HOOK.format("ontogeny_config_paths", f"return ['pkg://{name}_files.conf']")
        local_plugin(name, hook, **files)
    assert "model 'small_one' is offered by both local module (plugin 'first')" in problem()
    assert "(plugin 'second')" in problem()


@pytest.mark.parametrize("option", ["model/llama_tiny", "objective/clm"])
def test_yaml_cannot_replace_what_is_built_in(option: str, local_plugin: Local) -> None:
    files = {"taker_files/conf/__init__.py": "", f"taker_files/conf/{option}.yaml": "a: 1"}
    hook = HOOK.format("ontogeny_config_paths", "return ['pkg://taker_files.conf']")
    local_plugin("taker", hook, **files)
    assert "is offered by both ontogeny 0.1.0" in problem()


def test_config_files_of_a_plugin_compose_and_are_listed(local_plugin: Local) -> None:
    files = {
        "giver_files/conf/__init__.py": "",
        "giver_files/conf/objective/endless.yaml": "defaults: [clm, _self_]\ndocument_end: false",
    }
    hook = HOOK.format("ontogeny_config_paths", "return ['pkg://giver_files.conf']")
    local_plugin("giver", hook, **files)
    objective = compose(["objective=endless"]).stages["pretraining"].objective
    assert vars(objective) == {"document_start": True, "document_end": False}
    assert "configs pkg://giver_files.conf" in plugins_text()


def test_options_find_their_component_by_type_also_when_tracked() -> None:
    options = compose([]).stages["pretraining"].objective
    track(options)
    kind, registered = registry().find(options)
    assert (kind, registered.component.name) == ("objective", "clm")


def test_options_of_no_component_are_an_error() -> None:
    with pytest.raises(PluginError, match="Data are not the options of any component"):
        registry().find(Data())


def test_a_name_that_nobody_offers_is_told_the_nearest() -> None:
    told = r"no objective 'classificaton' \(did you mean 'classification'\?\); known: [a-z_, ]*clm"
    with pytest.raises(PluginError, match=told):
        registry().get("objective", "classificaton")


def test_an_implementation_is_imported_and_built_with_its_options(local_plugin: Local) -> None:
    text = OBJECTIVE.format(name="builds", options="Builds")
    work = "\nclass Work:\n    def __init__(self, options):\n        self.options = options\n"
    local_plugin("builds", text.replace("collections:Counter", "builds:Work") + work)
    options = registry().get("objective", "builds").component.config(size=2)
    built = registry().build(options)
    assert type(built).__name__ == "Work"
    assert vars(built) == {"options": options}


def test_every_kind_of_component_has_a_place() -> None:
    assert set(registry().components) == set(KINDS)


def test_the_code_of_a_release_is_its_version() -> None:
    plugin = Plugin("clm", "ontogeny_plugins.clm", "ontogeny", "1.2", editable=False)
    assert Registry().code_version(plugin) == "ontogeny 1.2"


def test_the_code_of_an_editable_plugin_is_the_content_of_its_files(
    local_plugin: Local, tmp_path: Path
) -> None:
    local_plugin("changing", OBJECTIVE.format(name="changing", options="Changing"))
    plugin = registry().get("objective", "changing").plugin
    before = registry().code_version(plugin)
    source_digest.cache_clear()
    assert registry().code_version(plugin) == before
    file = tmp_path / "plugins" / "changing.py"
    file.write_text(file.read_text() + "# a change")
    source_digest.cache_clear()
    assert registry().code_version(plugin) != before
