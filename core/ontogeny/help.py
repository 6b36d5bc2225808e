"""`ontogeny --help` and `ontogeny plugins`, from listings alone: no config is composed."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ontogeny import plugins
from ontogeny.component import GROUPS
from ontogeny.configuration import SCHEMAS
from ontogeny.plugins import CONFIG_MODULE, registry

if TYPE_CHECKING:
    from collections.abc import Iterator

USAGE = """\
ontogeny takes a language model through its life, one stage or a whole lifecycle at a time.

  ontogeny stage=pretraining model=llama_tiny data.path=text.jsonl trainer.max_steps=500
  ontogeny lifecycle=demo                              several stages, each from the one before
  ontogeny -m model=llama_tiny,gpt2_tiny seed=1,2      every combination
  ontogeny --cfg job [overrides]                       the composed config, without running it
  ontogeny explain objective=clm | data.max_length     what an option does, and its default
  ontogeny plugins                                     what is installed, and from where
  ontogeny show CHECKPOINT                             what a checkpoint is and where it comes from
  ontogeny store [size | show | verify | gc]           what is finished and kept; tidying it
  ontogeny reproduce-run CHECKPOINT                    the commands that make it again
  ontogeny report RUN                                  write a run's report.html anew
  ontogeny show-mask [rows=3] [overrides]              rows of a training and what they train
  ontogeny chat CHECKPOINT [system='...'] [max_tokens=512]  talk with a checkpoint
  ontogeny serve CHECKPOINT [port=8000]                an OpenAI-compatible server

Options are Hydra overrides: group=option chooses, key.of.option=value sets, a,b with -m sweeps.
Shell completion: eval "$(ontogeny -sc install=bash)"; more of Hydra's flags: ontogeny --hydra-help

Groups and their options:
"""
HIDDEN = {"hydra", "base", "stage_options"}


def help_text() -> str:
    """Return the help page."""
    groups = options_by_group()
    width = max(map(len, groups))
    lines = [f"  {group:<{width}}  {', '.join(names)}" for group, names in groups.items()]
    problems = [f"\nproblem: {problem}" for problem in registry().problems]
    return USAGE + "\n".join(lines + problems)


def options_by_group() -> dict[str, list[str]]:
    """Return the options of every config group: YAML files and components of all plugins."""
    found: dict[str, set[str]] = defaultdict(set)
    for group, name, _ in yaml_options():
        found[group].add(name)
    for kind, offered in registry().components.items():
        for name in offered:
            group, _, leaf = f"{GROUPS[kind]}/{name}".rpartition("/")
            found[group].add(leaf)
    for group, schemas in SCHEMAS.items():
        found[group] |= set(schemas)
    shown = {group: names - {"base"} for group, names in found.items()}
    visible = {group: names for group, names in shown.items() if group.split("/")[0] not in HIDDEN}
    return {group: sorted(names) for group, names in sorted(visible.items()) if names}


def yaml_options() -> Iterator[tuple[str, str, str]]:
    """Yield (group, option, provider) for every YAML file on the search path."""
    roots = [(f"pkg://{CONFIG_MODULE}", "ontogeny")]
    roots += [(path, plugin.where) for path, plugin in registry().config_paths]
    for path, provider in roots:
        for group, name in plugins.yaml_options(path):
            yield group, name, provider


def plugins_text() -> str:
    """Return a table of plugins: name, package, version, file and what they offer."""
    lines = []
    for plugin in registry().plugins:
        state = "disabled" if plugin.disabled else plugin.error or _offers(plugin.name)
        lines.append((plugin.name, plugin.origin, plugin.version, plugin.target, state))
    header = ("plugin", "package", "version", "module", "offers")
    rows = [header, *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = ["  ".join([*(row[i].ljust(widths[i]) for i in range(4)), row[4]]) for row in rows]
    problems = [f"\nproblem: {problem}" for problem in registry().problems]
    return "\n".join(table + problems)


def _offers(plugin: str) -> str:
    names = [
        f"{kind} {name}"
        for kind, offered in registry().components.items()
        for name, registered in offered.items()
        if registered.plugin.name == plugin
    ]
    names += [f"configs {path}" for path, owner in registry().config_paths if owner.name == plugin]
    return ", ".join(names)
