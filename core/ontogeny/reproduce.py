"""`ontogeny reproduce-run CHECKPOINT`: the commands that make a checkpoint again, as a script.

A stage of a lifecycle needs one command; a checkpoint that was made from one of another run needs
those of that run first.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ontogeny.api import compose
from ontogeny.checkpoint import checkpoint_digest, checkpoint_of, read_lineage
from ontogeny.configuration import plain
from ontogeny.errors import CheckpointError, OntogenyError
from ontogeny.keys import package_versions
from ontogeny.lineage import chain, inputs_of

Json = Mapping[str, Any]
TARGET = "reproduced"  # the runs are written below this folder


@dataclass
class Script:
    """Commands in order, and where the checkpoint is after the last of them."""

    commands: list[str] = field(default_factory=list)
    checkpoint: str = ""

    @property
    def text(self) -> str:
        """The commands, one a line."""
        return "\n".join(self.commands)


def reproduce(folder: str) -> str:
    """Return a shell script that makes a checkpoint again; raise CheckpointError if none can.

    Comments tell where it will be, what its digest has to be, and what is different today.
    """
    path = checkpoint_of(folder)
    lineage = read_lineage(path)
    if not lineage:
        msg = f"{folder} has no lineage.json, so it is not known how it was made"
        raise CheckpointError(msg)
    written = script(lineage)
    digest = checkpoint_digest("the checkpoint", str(path.resolve()))
    lines = [f"# makes {folder} again, as {written.checkpoint}"]
    lines += [f"# digest of its content: {digest} (`ontogeny show` prints it)"]
    lines += [f"# note: {note}" for note in differences(lineage)]
    return "\n".join([*lines, written.text])


def script(lineage: Json) -> Script:
    """Return the commands that make a checkpoint; raise CheckpointError if the lineage has none."""
    known = {str(each.get("key")): each for each in chain(lineage)}
    written = Script()
    places: dict[str, str] = {}
    written.checkpoint = _make(str(lineage.get("key")), known, written, places)
    return written


def command_line(command: Json, more: list[str] | None = None) -> str:
    """Return the command of a run, to be said in any folder."""
    overrides = command.get("overrides", []) if more is None else more
    given = command.get("environment", {})
    environment = [f"{name}={shlex.quote(value)}" for name, value in given.items()]
    words = ["ontogeny", *command.get("flags", []), *overrides]
    quoted = " ".join([*environment, *(shlex.quote(word) for word in words)])
    return f"cd {shlex.quote(str(command.get('folder', '.')))} && {quoted}"


def differences(lineage: Json) -> list[str]:
    """Return what is not as it was: versions, and inputs that are no longer there."""
    now, then = package_versions(), cast("dict[str, str]", lineage.get("versions", {}))
    found = [
        f"{name} was {version} and is {now.get(name, 'not installed')}: the last bits may differ"
        for name, version in then.items()
        if now.get(name) != version
    ]
    for each in chain(lineage):
        for option, given in inputs_of(each).items():
            if given.get("key") is None and _is_gone(str(given["source"])):
                found.append(f"{option} of {each.get('stage')} was {given['source']}: it is gone")
        found += _other_options(each)
    return found


def _other_options(lineage: Json) -> list[str]:
    """Return the options of a stage that its command does not say: set in Python, or in a file."""
    command, name = lineage.get("command"), lineage.get("stage")
    if command is None:
        return []
    try:
        stages = compose([*command["overrides"], *_search_path(command["flags"])]).stages
    except OntogenyError as error:
        return [f"the command of {name} no longer composes: {error}"]
    if name not in stages:
        return [f"the command of {name} composes other stages: {', '.join(stages)}"]
    now, then = dict(_leaves(plain(stages[name]))), dict(_leaves(lineage["config"]))
    return [
        f"{key} was {then[option]}, and the command composes {now.get(option, 'none such')}: "
        f"add {key}={then[option]}"
        for option in then
        if option not in inputs_of(lineage) and then[option] != now.get(option)
        for key in [f"{command['prefix']}{option}"]
    ]


def _search_path(flags: Sequence[str]) -> list[str]:
    """Return what stands for `--config-dir` where a config is composed and nothing is run."""
    folders = [flag.partition("=")[2] for flag in flags if flag.startswith("--config-dir=")]
    places = ",".join(f'"file://{folder}"' for folder in folders)
    return [f"hydra.searchpath=[{places}]"] if folders else []


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each option of a configuration with its value, as overrides write them."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value if isinstance(value, str) else json.dumps(value)


def _make(key: str, known: Json, written: Script, places: dict[str, str]) -> str:
    """Add the commands that make a stage's checkpoint; return where it will be."""
    if key in places:
        return places[key]
    lineage = known.get(key)
    command = lineage.get("command") if lineage else None
    if lineage is None or command is None:
        stage = lineage.get("stage") if lineage else key
        msg = (
            f"the lineage does not say which command ran the stage {stage}: it was written by an "
            f"older version; run it again"
        )
        raise CheckpointError(msg)
    replaced = {}
    for each in _same_run(lineage, known):
        for option, given in inputs_of(each).items():
            if given.get("stage_of_this_run") is None and given.get("key") in known:
                source = _make(str(given["key"]), known, written, places)
                replaced[f"{each['command']['prefix']}{option}"] = source
    run = f"{command['folder']}/{TARGET}/{key[:12]}"
    overrides = [item for item in command["overrides"] if _key(item) not in replaced]
    overrides += [f"{option}={_value(source)}" for option, source in replaced.items()]
    overrides += [f"~stages.{name}" for name in _later(lineage)]
    written.commands.append(command_line(command, [*overrides, f"hydra.run.dir={_value(run)}"]))
    places[key] = f"{run}/stages/{lineage['stage']}/checkpoint"
    return places[key]


def _same_run(lineage: Json, known: Json) -> list[Json]:
    """Return a stage and those of its own run that it was made from."""
    found = [lineage]
    for each in found:
        for given in inputs_of(each).values():
            before = known.get(str(given.get("key")))
            if given.get("stage_of_this_run") and before is not None and before not in found:
                found.append(before)
    return found


def _later(lineage: Json) -> list[str]:
    """Return the stages of the same lifecycle that come after this one, which are left out."""
    command = lineage["command"]
    if not command["prefix"]:
        return []
    names = command["stages"]
    return list(names[names.index(lineage["stage"]) + 1 :])


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _value(text: str) -> str:
    """Return a path as a value that Hydra reads as it stands."""
    plain = all(letter.isalnum() or letter in "/-._" for letter in text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return text if plain else f'"{escaped}"'


def _is_gone(source: str) -> bool:
    return source.startswith("/") and not Path(source).exists()
