"""What a component refuses when it is made, and what loading it can go wrong with."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ontogeny import Component, PluginError


@dataclass
class Options:
    """A number."""

    size: int = 1


def component(implementation: str = "collections:OrderedDict", name: str = "mine") -> Component:
    return Component(name, config=Options, implementation=implementation)


@pytest.mark.parametrize("name", ["dpo", "my_loss2", "vendor/dpo"])
def test_names_are_words_that_can_stand_on_a_command_line(name: str) -> None:
    assert component(name=name).name == name


@pytest.mark.parametrize("name", ["", "DPO", "2dpo", "my-loss", "a.b", "a/b/c", "a b"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(PluginError, match="must be lower case letters, digits and _"):
        component(name=name)


@pytest.mark.parametrize("config", [dict, Options(), "Options"])
def test_options_that_are_no_dataclass_are_refused(config: type) -> None:
    with pytest.raises(PluginError, match=r"'mine': config is .*; expected a dataclass type"):
        Component("mine", config=config, implementation="collections:OrderedDict")


@pytest.mark.parametrize("implementation", ["collections", "a:b:c", ""])
def test_an_implementation_names_a_module_and_a_class(implementation: str) -> None:
    with pytest.raises(PluginError, match=r"expected 'package.module:Class'"):
        component(implementation)


def test_loading_gives_the_class() -> None:
    from collections import OrderedDict

    assert component().load() is OrderedDict


@pytest.mark.parametrize(
    ("implementation", "reason"),
    [
        ("nowhere.at_all:Thing", "No module named 'nowhere'"),
        ("collections:Thing", "has no attribute 'Thing'"),
        ("json:loads", "not a class"),
    ],
)
def test_loading_what_is_not_there_names_the_component_and_the_path(
    implementation: str, reason: str
) -> None:
    with pytest.raises(PluginError, match=f"component 'mine': .*{implementation}.*{reason}"):
        component(implementation).load()
