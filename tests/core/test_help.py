"""The help page and the table of plugins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ontogeny.help import help_text, options_by_group, plugins_text
from ontogeny.plugins import registry


def test_every_option_of_every_group_is_listed() -> None:
    groups = options_by_group()
    assert "clm" in groups["objective"]
    assert {"pretraining", "continued_pretraining"} <= set(groups["stage"])
    assert groups["optimizer"] == ["adamw", "sgd"]
    assert {"llama_tiny", "gpt2_small", "qwen_tiny", "bert_small"} <= set(groups["model"])
    for group, options in groups.items():
        assert f"  {group} " in help_text()
        assert ", ".join(options) in help_text()


def test_what_is_there_for_other_files_only_is_not_listed() -> None:
    groups = options_by_group()
    assert "base" not in groups
    assert "stage_options" not in groups
    assert all("base" not in options for options in groups.values())
    assert not [group for group in groups if group.startswith("hydra")]


def test_the_help_page_fits_a_terminal() -> None:
    usage = help_text().partition("Groups and their options:")[0]
    assert max(map(len, usage.splitlines())) <= 100


def test_plugins_are_listed_with_package_version_module_and_what_they_offer() -> None:
    rows = {line.split()[0]: line.split() for line in plugins_text().splitlines()}
    assert rows["plugin"] == ["plugin", "package", "version", "module", "offers"]
    assert rows["clm"] == ["clm", "ontogeny", "0.1.0", "ontogeny_plugins.clm", "objective", "clm"]


def test_problems_stand_below_both_pages(local_plugin: Callable[..., None]) -> None:
    local_plugin("broken", "1 / 0")
    for text in (help_text(), plugins_text()):
        assert text.endswith(f"problem: {registry().problems[0]}")


def test_a_component_of_a_local_plugin_is_listed(local_plugin: Callable[..., None]) -> None:
    local_plugin(
        "listed",
        """
        from dataclasses import dataclass
        from ontogeny import Component, hookimpl

        @dataclass
        class Listed:
            '''Nothing.'''

        @hookimpl
        def ontogeny_adapters():
            return [Component("listed_one", config=Listed, implementation="a:B")]
        """,
    )
    assert "listed_one" in options_by_group()["adapter"]
    row = next(line for line in plugins_text().splitlines() if line.startswith("listed"))
    assert row.endswith("adapter listed_one")


@pytest.mark.parametrize("command", ["explain", "plugins", "show", "--cfg job", "-m"])
def test_the_help_page_names_every_command(command: str) -> None:
    assert f"ontogeny {command}" in help_text()
