"""Which stages of a run are carried out, and which checkpoint each of them starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, cast

from ontogeny.component import NO_CHECKPOINT
from ontogeny.errors import ConfigError, OntogenyError
from ontogeny.keys import marked, require_inputs
from ontogeny.kinds import (
    UNKNOWN,
    Kinds,
    given_kinds,
    kinds_of_folder,
    require_companion,
    require_kind,
)
from ontogeny.option_keys import with_stage
from ontogeny.options import NO_SOURCE, STAGE_SOURCE
from ontogeny.spelling import suggestion
from ontogeny.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ontogeny.configuration import RunConfig, StageConfig
    from ontogeny.plugins import Registry
    from ontogeny.stage import Advice, StageResult
    from ontogeny.store import Store


@dataclass(frozen=True)
class Source:
    """One option that names a checkpoint, and how to set it."""

    key: str
    value: str
    takes: Collection[str] | None  # kinds
    set: Callable[[str | None], None]

    @property
    def stage(self) -> str | None:
        """The earlier stage whose checkpoint it is, if it is one."""
        named = self.value.startswith(STAGE_SOURCE) and self.value != NO_SOURCE
        return self.value.removeprefix(STAGE_SOURCE) if named else None


def sources(config: StageConfig) -> Iterator[Source]:
    """Yield every option of a stage that names a checkpoint and is set."""
    for group in ("model", "tokenizer", "teacher"):
        options = getattr(config, group)
        if options.source is not None:
            yield Source(f"{group}.source", options.source, None, _setter(options, "source"))
    for key, options, item in marked(config, "checkpoint"):
        value, takes = getattr(options, item.name), item.metadata.get("takes")
        if isinstance(value, dict):
            for name, each in value.items():
                place = f"{key}.{item.name}.{name}"
                yield Source(place, str(each), takes, _dict_setter(value, name))
        elif value is not None:
            yield Source(f"{key}.{item.name}", str(value), takes, _setter(options, item.name))


def _setter(options: object, name: str) -> Callable[[str | None], None]:
    return lambda value: setattr(options, name, value)


def _dict_setter(values: dict[str, object], name: str) -> Callable[[str | None], None]:
    return lambda value: values.__setitem__(name, value)


class Plan:
    """The stages of a run in order: those that are carried out, and why the others are not."""

    def __init__(self, config: RunConfig, registry: Registry) -> None:
        self.config = config
        self.registry = registry
        self.names = list(config.stages)
        self.left_out: dict[str, str] = {}
        self._leave_out()

    @property
    def stages(self) -> list[str]:
        """The stages that are carried out, unless one that they listen to advises otherwise."""
        return [name for name in self.names if name not in self.left_out]

    def check(self, store: Store) -> None:
        """Raise ConfigError, DataError or CheckpointError for what would only fail later."""
        given: dict[str, Kinds | None] = {}
        current, before = UNKNOWN, ""
        for name in self.stages:
            try:
                current, before = self._check_stage(name, given, current, before, store)
            except OntogenyError as error:
                raise self.explained(name, error) from error

    def explained(self, name: str, error: OntogenyError) -> OntogenyError:
        """Return the error of a stage with the full keys of its options."""
        if self.config.is_lifecycle and error.args:
            text = with_stage(str(error), name, self.config.stages[name])
            error.args = (text, *error.args[1:])
        return error

    def resolve(self, name: str, results: Mapping[str, StageResult], current: str | None) -> None:
        """Put folders where a stage names earlier stages; `current` where it names no model."""
        stage = self.config.stages[name]
        if stage.model.source is None:
            stage.model.source = current
        for source in list(sources(stage)):
            if source.value == NO_SOURCE:
                source.set(None)
            elif source.stage is not None:
                source.set(self._checkpoint(source, results))

    def _checkpoint(self, source: Source, results: Mapping[str, StageResult]) -> str:
        result = results.get(str(source.stage))
        if result is None or result.checkpoint is None:
            raise ConfigError(
                f"{source.key} is {source.value!r}, which has left no checkpoint: "
                f"{self.left_out.get(str(source.stage), 'it makes none')}; name another one"
            )
        return str(result.checkpoint)

    def advised(self, name: str, results: Mapping[str, StageResult]) -> str | None:
        """Return why a stage is not carried out after all; None: it is, as it was advised."""
        stage = self.config.stages[name]
        if stage.when is None:
            return None
        adviser, _, path = stage.when.partition(":")
        result = results.get(adviser)
        advice = None if result is None else result.advice
        if advice is None:
            return f"{adviser} gave no advice"
        if advice.path != path:
            return f"{adviser} advises the path {advice.path}"
        self._follow(name, advice)
        return None

    def _follow(self, name: str, advice: Advice) -> None:
        """Set options as they are advised, but for those that the user has set."""
        stage, chosen = self.config.stages[name], self._chosen(name)
        for key, value in advice.options.items():
            if any(_overlap(key, each) for each in chosen):
                continue
            if key == "adapter":
                stage.adapter = self._adapters(stage, cast("list[str]", value))
            else:
                _set(stage, key.split("."), value)

    def _chosen(self, name: str) -> set[str]:
        """Return the keys of a stage that the user has set, groups among them."""
        keys = {item.lstrip("+~").partition("=")[0] for item in self.config.overrides}
        inside = {key.rpartition("@")[2] for key in keys}
        return {key.removeprefix(self.config.prefix(name)) for key in inside}

    def _adapters(self, stage: StageConfig, names: Sequence[str]) -> dict[str, object]:
        return {
            name: stage.adapter.get(name) or self.registry.get("adapter", name).component.config()
            for name in names
        }

    # Which stages

    def _leave_out(self) -> None:
        config = self.config
        first = self._index("start_at", config.start_at, 0)
        last = self._index("stop_after", config.stop_after, len(self.names) - 1)
        if first > last:
            raise ConfigError(
                f"start_at is {config.start_at!r}, which comes after stop_after: "
                f"{config.stop_after!r}; the order is {', '.join(self.names)}"
            )
        for name in self.names[:first]:
            self.left_out[name] = f"the run starts at {config.start_at} (start_at)"
        for name in self.names[last + 1 :]:
            self.left_out[name] = f"the run stops after {config.stop_after} (stop_after)"
        self._require_known_references()
        self._leave_out_what_nothing_needs()

    def _index(self, key: str, name: str | None, default: int) -> int:
        if name is None:
            return default
        if name not in self.names:
            known = ", ".join(self.names)
            raise ConfigError(
                f"{key} is {name!r}, no stage of this run{suggestion(name, self.names)}; the "
                f"stages are {known}"
            )
        return self.names.index(name)

    def _require_known_references(self) -> None:
        for name in self.stages:
            try:
                self._require_earlier(name)
            except ConfigError as error:
                raise self.explained(name, error) from error

    def _require_earlier(self, name: str) -> None:
        earlier = self.names[: self.names.index(name)]
        for source in sources(self.config.stages[name]):
            if source.stage is not None:
                self._require_one_of(source.key, source.value, source.stage, earlier)
        when = self.config.stages[name].when
        if when is not None:
            if not when.partition(":")[2]:
                raise ConfigError(f"when is {when!r}; expected <stage>:<path that it advises>")
            self._require_one_of("when", when, when.partition(":")[0], earlier)

    def _require_one_of(self, key: str, value: str, named: str, earlier: Sequence[str]) -> None:
        if named not in earlier:
            place = "comes later" if named in self.names else "is no stage of this run"
            listed = f"earlier stages are {', '.join(earlier)}" if earlier else "none is earlier"
            near = suggestion(named, earlier)
            raise ConfigError(f"{key} is {value!r}, but {named} {place}{near}; {listed}")
        if named in self.left_out:
            raise ConfigError(
                f"{key} is {value!r}, but {named} is left out: {self.left_out[named]}; name a "
                f"checkpoint folder"
            )

    def _leave_out_what_nothing_needs(self) -> None:
        """Leave out what comes before a stage with a checkpoint of the user's own.

        What later stages name stays, with all that it goes on from.
        """
        kept = self.stages
        starts = [name for name in kept if self._own_source(name)]
        if not starts:
            return
        begin = kept.index(starts[-1])
        needed = set(kept[begin:])
        while more := {each for name in needed for each in self._needs(name, kept)} - needed:
            needed |= more
        source = self.config.stages[starts[-1]].model.source
        for name in kept:
            if name not in needed:
                self.left_out[name] = f"{starts[-1]} starts from {source}"

    def _own_source(self, name: str) -> bool:
        source = self.config.stages[name].model.source
        return source is not None and not source.startswith(STAGE_SOURCE)

    def _needs(self, name: str, kept: Sequence[str]) -> set[str]:
        """Return the stages whose results a stage takes: named ones, and the one before."""
        stage = self.config.stages[name]
        named = {source.stage for source in sources(stage) if source.stage is not None}
        if stage.when is not None:
            named.add(stage.when.partition(":")[0])
        if stage.model.source is None:
            named |= self._before(kept[: kept.index(name)])
        return named

    def _before(self, earlier: Sequence[str]) -> set[str]:
        """Return the stages that may hand on the checkpoint that a stage behind them begins with.

        One that may be left out hands on nothing then; one that makes none hands on its own.
        """
        found: set[str] = set()
        for name in reversed(earlier):
            stage = self.config.stages[name]
            makes, given = self._leaves_checkpoint(name), stage.model.source is not None
            if makes or given:
                found.add(name)
                if stage.when is None:
                    break
        return found

    def _leaves_checkpoint(self, name: str) -> bool:
        component = self.registry.find(self.config.stages[name].stage)[1].component
        return component.gives != NO_CHECKPOINT

    # What each of them needs

    def _check_stage(
        self,
        name: str,
        given: dict[str, Kinds | None],
        current: Kinds,
        before: str,
        store: Store,
    ) -> tuple[Kinds, str]:
        """Check one stage; return the kind of checkpoint that goes on, and where it comes from."""
        stage = self.config.stages[name]
        taken, where = current, before
        for source in sources(stage):
            kinds = self._kinds(source, given)
            if source.key == "model.source":
                taken, where = kinds, f"{source.key}={source.value}"
            else:
                require_companion(source.key, source.value, kinds, source.takes)
        require_kind(stage, self.registry, taken, where, "model.source")
        there = {each.key: each.value for each in sources(stage) if _is_there(each)}
        require_inputs(stage, store, there)
        if stage.when is None:  # else the advice may bring what is missing
            cast("Stage", self.registry.build(stage.stage)).check(stage)
        given[name] = given_kinds(stage, self.registry, taken)
        kept = given[name]
        return (taken, where) if kept is None else (kept, f"what stages.{name} leaves")

    def _kinds(self, source: Source, given: Mapping[str, Kinds | None]) -> Kinds:
        if source.value == NO_SOURCE:
            return UNKNOWN
        if source.stage is None:
            return kinds_of_folder(source.value, self.registry)
        kinds = given[source.stage]
        if kinds is None:
            raise ConfigError(
                f"{source.key} is {source.value!r}, but {source.stage} leaves no checkpoint; name "
                f"another stage, or a folder"
            )
        return kinds


def _is_there(source: Source) -> bool:
    return source.stage is None and source.value != NO_SOURCE


def _overlap(key: str, chosen: str) -> bool:
    """Say whether one of two keys is the other, or a group that holds it."""
    return f"{key}.".startswith(f"{chosen}.") or f"{chosen}.".startswith(f"{key}.")


def _set(node: object, parts: list[str], value: object) -> None:
    """Set an option where the stage has it; its own checks are made again."""
    first, *rest = parts
    if isinstance(node, dict):
        if first in node and rest:
            _set(node[first], rest, value)
    elif is_dataclass(node) and first in {item.name for item in fields(node)}:
        if rest:
            _set(getattr(node, first), rest, value)
        else:
            changed = replace(node, **{first: value})  # type: ignore[type-var]
            setattr(node, first, getattr(changed, first))
