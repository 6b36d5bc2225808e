"""The built-in plugins keep the promises that everybody's plugins make: one line for each."""

from collections.abc import Callable

import pytest

from ontogeny.component import KINDS
from ontogeny.plugins import Plugin, registry
from ontogeny.testing import (
    check_adapter,
    check_evaluator,
    check_head,
    check_objective,
    check_plugin,
)

CHECKS: dict[str, Callable[..., None]] = {
    "objective": check_objective,
    "head": check_head,
    "adapter": check_adapter,
    "evaluator": check_evaluator,
}
QUICK = ["stage.sample_tokens=0"]
COMPONENTS: list[tuple[str, str, dict[str, object]]] = [
    ("objective", "clm", {"overrides": QUICK}),
    ("head", "causal_lm", {}),
    ("evaluator", "perplexity", {}),
]


def built_in() -> list[Plugin]:
    return [plugin for plugin in registry().plugins if plugin.origin == "ontogeny"]


@pytest.mark.parametrize(("kind", "name", "arguments"), COMPONENTS, ids=str)
def test_a_built_in_component_keeps_its_contract(
    kind: str, name: str, arguments: dict[str, object]
) -> None:
    CHECKS[kind](name, **arguments)


@pytest.mark.parametrize("name", [plugin.name for plugin in built_in()])
def test_a_built_in_plugin_is_light_and_its_configs_compose(name: str) -> None:
    check_plugin(name, skip=list(CHECKS))


def test_every_built_in_component_has_its_line_here() -> None:
    offered = {
        (kind, name)
        for kind in KINDS
        for name, registered in registry().components[kind].items()
        if kind in CHECKS and registered.plugin.origin == "ontogeny"
    }
    assert offered == {(kind, name) for kind, name, _ in COMPONENTS}
