"""The command to run next: overrides that this installation accepts."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, cast

from ontogeny.api import compose
from ontogeny.configuration import plain
from ontogeny.errors import ConfigError, OntogenyError
from ontogeny.options import Data
from ontogeny.plugins import registry
from ontogeny_plugins.diagnosis.rule import SPECIALISED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ontogeny.configuration import StageConfig
    from ontogeny.objective import Objective
    from ontogeny_plugins.diagnosis.rule import Advice
    from ontogeny_plugins.diagnosis.sampling import Sample
    from ontogeny_plugins.diagnosis.saving import Saving

CONTINUED = ("continued_pretraining", "pretraining")
# Stages for a task, by columns that its rows have; of each, the first that is installed.
TASK_STAGES = (
    (("tokens", "tags"), ("finetuning_tagging",)),
    (("question", "context", "answers"), ("finetuning_qa",)),
    (("question", "choices", "label"), ("finetuning_choice",)),
    (("text", "label"), ("finetuning",)),
    (("question", "context", "label"), ("finetuning",)),
    (("chosen",), ("preference",)),
    (("completion", "label"), ("preference_unpaired",)),  # answers that were judged, good and bad
    (("messages",), ("sft",)),
    (("prompt", "completion"), ("sft",)),
    (("text",), CONTINUED),
)
UNKNOWN_TASK = ("sft", "finetuning")
# Data options of a diagnosis that say nothing of how rows are read.
OWN = frozenset({"path", "sources", "example", "domain", "general", "task", "validation"})
PLAIN = re.compile(r"[A-Za-z_./][\w./@:%+-]*", re.ASCII)
WORDS = frozenset({"null", "true", "false", "nan", "inf"})  # Hydra reads them as something else


def next_overrides(
    advice: Advice, config: StageConfig, task: Sample | None, saving: Saving | None
) -> list[str]:
    """Return the overrides of the next run; empty where nothing that is installed can do it.

    They are composed here, so that what is printed is accepted. What to know about them, such as
    that a stage stands in for one that is not installed, is added to the notes of the advice.
    """
    if advice.path == SPECIALISED:
        body = [*_mixture(advice, config), *_adapter(saving if advice.expand else None, config)]
        return _first_that_composes(CONTINUED, config, body, advice.notes)
    if task is None:
        advice.notes.append("add data.path=YOUR_TASK to the command: data.task.path was not given")
        return _first_that_composes(UNKNOWN_TASK, config, [], advice.notes)
    body = [f"data.path={quoted(task.path)}"]
    stages = next((names for columns, names in TASK_STAGES if task.columns >= {*columns}), ())
    if not stages:
        listed = ", ".join(sorted(task.columns))
        advice.notes.append(f"no stage is known for a task whose rows have {listed}")
    return _first_that_composes(stages, config, body, advice.notes, columns=task.columns)


def next_options(advice: Advice, config: StageConfig, saving: Saving | None) -> dict[str, object]:
    """Return the options of the continued pre-training that is advised, for those who follow."""
    if advice.path != SPECIALISED:
        return {}
    options: dict[str, object] = {
        "data.sources.domain.weight": 1 - advice.replay,
        "data.sources.general.weight": advice.replay,
        "adapter": [],
    }
    if saving is not None and advice.expand:
        name = saving.adapter
        options["adapter"] = [name]
        options |= {
            f"adapter.{name}.{item.name}": plain(getattr(config.adapter[name], item.name))
            for item in fields(config.adapter[name])  # type: ignore[arg-type]  # options
        }
    return options


def quoted(value: object) -> str:
    """Return a value as Hydra's grammar reads it back."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(quoted(item) for item in value)}]"
    text = str(value)
    if not isinstance(value, str) or (PLAIN.fullmatch(text) and text.lower() not in WORDS):
        return text
    # A backslash only counts before a quote, and at the end; ${ would begin an interpolation.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2], text)
    return "'" + escaped.replace("'", r"\'").replace("${", r"\${") + "'"


def _mixture(advice: Advice, config: StageConfig) -> Iterator[str]:
    weights = {"domain": 1 - advice.replay, "general": advice.replay}
    for name, weight in weights.items():
        yield f"data.sources.{name}.path={quoted(getattr(config.data, name).path)}"
        yield f"data.sources.{name}.weight={weight:g}"


def _adapter(saving: Saving | None, config: StageConfig) -> Iterator[str]:
    if saving is None:
        return
    name, options = saving.adapter, config.adapter[saving.adapter]
    yield f"adapter=[{name}]"
    own = list(_changed(f"adapter.{name}", options))
    size = f"adapter.{name}.size="
    if hasattr(options, "size") and not any(item.startswith(size) for item in own):
        yield f"{size}{saving.tokens}"  # said, though it is the default, for it is the question
    yield from own


def _first_that_composes(
    stages: Sequence[str],
    config: StageConfig,
    body: Sequence[str],
    notes: list[str],
    *,
    columns: Collection[str] | None = None,
) -> list[str]:
    """Return the overrides of the first stage that accepts them, and rows with these columns."""
    shared = [*_changed("model", config.model), *_changed("tokenizer", config.tokenizer)]
    shared += _changed("data", config.data)
    refused = []
    for stage in stages:
        overrides = [f"stage={stage}", *shared, *body]
        try:
            (composed,) = compose(overrides).stages.values()
            if columns is not None:
                _require_columns(stage, composed, columns)
        except OntogenyError as error:
            refused.append(f"not usable here: {error}")
        else:
            notes += [f"{reason}; stage={stage} stands in" for reason in refused]
            return overrides
    notes += refused
    return []


def _require_columns(stage: str, config: StageConfig, columns: Collection[str]) -> None:
    """Raise ConfigError where the objective of a stage cannot read rows with these columns."""
    objective = cast("Objective", registry().build(config.objective))
    if any(set(each) <= set(columns) for each in objective.columns):
        return
    expected = ", or ".join(" + ".join(each) for each in objective.columns)
    msg = f"stage={stage} reads {expected}; the rows of data.task.path have {', '.join(columns)}"
    raise ConfigError(msg)


def _changed(key: str, options: object) -> Iterator[str]:
    """Yield an override for every option that has another value than its default."""
    hidden = OWN if isinstance(options, Data) else frozenset()
    for item in fields(options):  # type: ignore[arg-type]  # of every options object
        value = getattr(options, item.name)
        is_volatile = item.metadata.get("volatile", False)
        if item.name not in hidden and not is_volatile and value != _default(item):
            yield f"{key}.{item.name}={quoted(value)}"


def _default(item: Field[object]) -> object:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return item.default
