"""`check_plugin` can fail: for what a plugin's module does, and for what it brings along."""

from collections.abc import Callable

import pytest

from ontogeny.plugins import registry
from ontogeny.testing import ContractError, check_plugin

Write = Callable[..., str]

HOOK = """
from ontogeny import hookimpl

@hookimpl
def {}():
    {}
"""
CONFIGS = HOOK.format("ontogeny_config_paths", "return ['pkg://{}']")
COMPONENT = """
from dataclasses import dataclass
from ontogeny import Component, hookimpl

@dataclass
class Options:
    '''A number.'''
    size: int = 1  # of it

@hookimpl
def ontogeny_adapters():
    return [Component("{name}", Options, "{implementation}")]
"""
WORKING = COMPONENT.format(name="mine", implementation="contract_plugins.working:LastLayer")

ENTRIES = {
    "heavy": ("import pyarrow\n" + WORKING, "its entry module imports pyarrow; keep dataclasses"),
    "lazy": (HOOK.format("ontogeny_heads", "import pyarrow; return []"), "imports pyarrow"),
    "misspelt": (HOOK.format("ontogeny_heds", "return []"), "unknown hook 'ontogeny_heds'"),
    "unmarked": ("def ontogeny_heads(): return []", "ontogeny_heads lacks the mark of a hook"),
    "idle": ("", "it has no hook, so it does nothing"),
    "raising": ("1 / 0", "does not load: ZeroDivisionError"),
    "borrowing": (f"import sys; sys.modules['pytest'].fixture\n{WORKING}", "KeyError: 'pytest'"),
    "homeless": (CONFIGS.format("nowhere.conf"), "config folder pkg://nowhere.conf is not found"),
    "relative": (HOOK.format("ontogeny_config_paths", "return ['relative']"), "expected pkg://"),
    "foreign": (COMPONENT.format(name="mine", implementation="json:loads"), "not a class"),
    "clashing": (
        WORKING.replace("adapters", "objectives").replace("mine", "clm"),
        "objective 'clm' is offered by both ontogeny .* and local module",
    ),
}
YAML = {
    "broken": ("defaults: [nothing_like_it]", "objective/variant.yaml does not compose: .*nothing"),
    "wrong": (
        "defaults: [clm]\ndocument_end: perhaps",
        "objective/variant.yaml does not compose: .*ValidationError",
    ),
    "stray": (
        "defaults: [clm]\nstray: 1",
        "objective/variant.yaml does not compose: .*ConfigKeyError",
    ),
}


def catches(name: str, words: str) -> None:
    with pytest.raises(ContractError, match=words) as caught:
        check_plugin(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "entry", "words"), [(k, *v) for k, v in ENTRIES.items()])
def test_a_broken_plugin_is_told_which_promise(
    name: str, entry: str, words: str, write: Write
) -> None:
    catches(write(name, entry), words)


@pytest.mark.parametrize(("yaml", "words"), YAML.values(), ids=YAML)
def test_a_yaml_option_that_does_not_compose_is_named(yaml: str, words: str, write: Write) -> None:
    files = {"yaml_plugin/conf/__init__.py": "", "yaml_plugin/conf/objective/variant.yaml": yaml}
    catches(write("yaml_plugin", CONFIGS.format("yaml_plugin.conf"), **files), words)


def test_an_empty_config_folder_is_named(write: Write) -> None:
    files = {"hollow/conf/__init__.py": "", "hollow/conf/README.md": ""}
    name = write("hollow", CONFIGS.format("hollow.conf"), **files)
    catches(name, "the config folder pkg://hollow.conf holds no option")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("adapter/mine", "adapter/mine.yaml takes the name of a component; rename it"),
        ("optimizer/adamw", "optimizer/adamw.yaml takes the name of a component; rename it"),
        ("objective/clm", "objective 'clm' is offered by both ontogeny .* and local module"),
        ("scheduler/cosine", "scheduler 'cosine' is offered by both ontogeny .* and local module"),
    ],
)
def test_yaml_that_takes_the_name_of_another_option_is_caught(
    option: str, words: str, write: Write
) -> None:
    entry = WORKING + CONFIGS.format("doubling.conf")
    files = {"doubling/conf/__init__.py": "", f"doubling/conf/{option}.yaml": "size: 3"}
    catches(write("doubling", entry, **files), words)


def test_yaml_options_of_every_kind_of_group_pass(write: Write) -> None:
    files = {
        "wide/conf/__init__.py": "",
        "wide/conf/objective/variant.yaml": "defaults: [clm]\ndocument_end: false",
        "wide/conf/callbacks/note.yaml": "note: {_target_: lightning.pytorch.callbacks.Timer}",
        "wide/conf/stage/again.yaml": "# @package _global_\ndefaults: [pretraining@_here_]",
        "wide/conf/surroundings/calm.yaml": "# @package _global_\nseed: 3",
        "wide/conf/lifecycle/two.yaml": (
            "# @package _global_\ndefaults:\n"
            "  - /stage@stages.one: pretraining\n  - /stage@stages.two: again\n"
            "  - override /stage: null\n"
        ),
        "wide/conf/base/part.yaml": "defaults: [nothing_like_it]",
    }
    check_plugin(write("wide", CONFIGS.format("wide.conf"), **files))


def test_a_plugin_that_is_not_installed_is_told_the_nearest_name() -> None:
    catches("perplexit", r"it is not installed \(did you mean 'perplexity'\?\)")


def test_a_disabled_plugin_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONTOGENY_DISABLE_PLUGINS", "perplexity")
    registry.cache_clear()
    try:
        catches("perplexity", "it is disabled; unset ONTOGENY_DISABLE_PLUGINS")
    finally:
        registry.cache_clear()


def test_a_component_can_be_left_out(write: Write) -> None:
    name = write("foreign", ENTRIES["foreign"][0])
    catches(name, "not a class")
    check_plugin(name, skip=["mine"])
    check_plugin(name, skip=["adapter"])


def test_a_stage_keeps_the_promises_of_all_components(write: Write) -> None:
    entry = WORKING.replace("adapters", "stages")
    catches(write("staging", entry), "contract_plugins.working:LastLayer is no Stage")
