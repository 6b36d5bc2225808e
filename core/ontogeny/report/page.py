"""Writes `report.html`: facts of the run's folder, put into a template that has no scripts."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ontogeny.errors import ConfigError, Interrupted
from ontogeny.evaluator import SHOWN
from ontogeny.folders import write_text
from ontogeny.plugins import registry
from ontogeny.progress import duration
from ontogeny.report import REPORT
from ontogeny.report.charts import line_chart
from ontogeny.report.facts import Json, RunFacts, StageFacts
from ontogeny.report.headlines import headlines
from ontogeny.report.matrix_table import matrix_table
from ontogeny.report.section import Section
from ontogeny.reproduce import command_line, script

if TYPE_CHECKING:
    from jinja2 import Template

EVERY_SECONDS = 30.0  # that a page is written anew while a stage trains,
SHARE = 0.01  # as long as that takes no more of the time: logs of long runs are long
MOST_SAMPLES = 50
MOST_LETTERS = 2000  # of a cell of a table
_EMPTY_LINES = re.compile(r"\n{4,}")  # a small model may write nothing but them
_log = logging.getLogger("ontogeny.report")


class Page:
    """Keeps a run's page up to date; a page that cannot be made never stops the run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._due = 0.0

    def refresh(self) -> None:
        """Write the page if it is older than half a minute, or more where it takes long."""
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write the page of what there is so far."""
        began = time.monotonic()
        try:
            write_text(self._folder / REPORT, render(self._folder))
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001  a run is worth more than its page
            _log.warning("%s could not be written: %s: %s", REPORT, type(error).__name__, error)
        ended = time.monotonic()
        self._due = ended + max(EVERY_SECONDS, (ended - began) / SHARE)


def rewrite(folder: str) -> Path:
    """Write the page of a run anew and return it; raise ConfigError where there is no run."""
    path = Path(folder)
    if not (path / "status.json").is_file():
        msg = f"{folder} is no folder of a run: it holds no status.json"
        raise ConfigError(msg)
    write_text(path / REPORT, render(path))
    return path / REPORT


def render(folder: Path) -> str:
    """Return the page of a run's folder, as HTML that needs no other file."""
    run = RunFacts(folder)
    stages = [each for each in run.stages if each.state != "waiting"]
    matrix = matrix_table(run.matrix)
    shown = [_stage(stage) for stage in stages]
    parts = [("lineage", "Lineage")] + [("matrix", "Stage × suite")] * bool(matrix)
    parts += [(stage["anchor"], stage["name"]) for stage in shown]
    parts += [("budget", "Budget"), ("software", "Software"), ("reproduce", "Reproduce")]
    return _template().render(
        run=run,
        title=" → ".join(stage.name for stage in run.stages) or folder.name,
        style=Markup(_resource("style.css")),  # noqa: S704  our own
        parts=parts,
        headlines=headlines(run),
        lineage=list(_lineage(run)),
        matrix=matrix,
        stages=shown,
        budget=_budget(stages),
        versions=[*_versions(run.status)],
        components=[row for stage in stages for row in _components(stage)],
        reproduce=_reproduce(run),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["shown"] = _shown
    environment.filters["when"] = lambda time: time[:16].replace("T", " ")
    environment.globals["line_chart"] = line_chart
    return environment.from_string(_resource("page.html"))


def _resource(name: str) -> str:
    return (files("ontogeny.report") / name).read_text(encoding="utf-8")


def _shown(value: object) -> str:
    """Return a cell's text: numbers with four digits, long texts cut with a mark."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = _EMPTY_LINES.sub(lambda found: f"\n[{len(found[0]) - 1} empty lines]\n", text)
    rest = len(text) - MOST_LETTERS
    return text if rest <= 0 else f"{text[:MOST_LETTERS]}… ({rest:,} more letters)"


def _lineage(run: RunFacts) -> Iterator[Json]:
    """Yield the stages before this run, then those of it."""
    own = {stage.lineage.get("key") for stage in run.stages}
    known: dict[str, Json] = {}
    for stage in run.stages:
        for each in stage.lineage.get("ancestors", []):
            known.setdefault(str(each.get("key")), each)
    nodes = [(str(e.get("stage")), "before", e) for key, e in known.items() if key not in own]
    nodes += [(stage.name, stage.state, stage.lineage) for stage in run.stages]
    last = None
    for name, state, lineage in nodes:
        given = lineage.get("inputs", {}).get("model.source", {}).get("key")
        follows = last is not None and (not lineage or given == last)
        yield {"name": name, "state": state, "follows": follows, "lines": list(_node(lineage))}
        last = lineage.get("key")


def _node(lineage: Json) -> Iterator[str]:
    """Yield what a stage of the graph says: what it starts from, reads, does and is called."""
    if not lineage:
        return
    for option, given in lineage.get("inputs", {}).items():
        name = given.get("stage_of_this_run")
        yield f"{option.removesuffix('.source')} from {name or given['source']}"
    if not lineage.get("inputs"):
        yield "from random weights"
    for source in lineage.get("data", []):
        yield f"reads {source['name']}: {source['path']} ({source.get('rows', '?')} rows)"
    if lineage.get("steps"):
        yield f"{lineage['steps']:,} steps"
    yield f"key {str(lineage.get('key'))[:12]}"


def _stage(stage: StageFacts) -> Json:
    metrics = list(_metrics(stage.metrics))
    whole = [row for row in metrics if "/" not in row[1]] if len(metrics) > SHOWN else metrics
    columns, rows = stage.samples
    return {
        "name": stage.name,
        "anchor": f"stage-{stage.name}",
        "state": stage.state,
        "training": stage.training,
        "evaluations": _largest_first(stage),
        "metrics": whole,
        "more_metrics": [row for row in metrics if row not in whole],
        "data": _data(stage.lineage),
        "samples": {
            "columns": columns,
            "rows": rows[:MOST_SAMPLES],
            "more": max(0, len(rows) - MOST_SAMPLES),
        },
        "sections": [_section(each) for each in _plugin_sections(stage)],
        "config": json.dumps(stage.lineage["config"], indent=2) if stage.lineage else "",
    }


def _largest_first(stage: StageFacts) -> Mapping[str, object]:
    """Return the charts of evaluations; of very many those of a whole alone."""
    charts = stage.evaluations
    return dict(list(charts.items())[:SHOWN])


def _metrics(metrics: Json) -> Iterator[tuple[str, str, object, str, str]]:
    for evaluator, values in metrics.items():
        for name, metric in values.items():
            yield evaluator, name, metric["value"], interval(metric), metric["unit"]


def interval(metric: Json) -> str:
    """Return a metric's 95 % interval in words, or nothing."""
    if metric.get("low") is None or metric.get("high") is None:
        return ""
    return f"{metric['low']:.4g} to {metric['high']:.4g}"


def _data(lineage: Json) -> Json | None:
    sources = lineage.get("data", [])
    if not sources:
        return None
    numeric = ["rows", "held out", "rejected", "requested", "realised", "tokens"]
    rows = [
        (
            source["name"],
            source["path"],
            source.get("rows"),
            source.get("held_out"),
            source.get("rejected"),
            _share(source.get("requested")),
            _share(source.get("share")),
            source.get("tokens"),
            str(_content(lineage, source["name"]))[:12],
        )
        for source in sources
    ]
    return {"columns": ["source", "path", *numeric, "digest"], "rows": rows, "numeric": numeric}


def _content(lineage: Json, source: str) -> object:
    """Return the digest of a source's text, which stands in a list with how it is used."""
    found = lineage.get("data_digests", {}).get(source, "")
    return found[0] if isinstance(found, list) else found


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _plugin_sections(stage: StageFacts) -> Iterator[Section]:
    """Yield what plugins add; one that fails says so in its place."""
    hook = registry().manager.hook.ontogeny_report_sections
    for implementation in hook.get_hookimpls():
        arguments = {"stage": stage.name, "folder": stage.folder.resolve()}
        wanted = {name: arguments[name] for name in implementation.argnames}
        try:
            for section in cast("Iterable[object]", implementation.function(**wanted)):
                if not isinstance(section, Section):
                    msg = f"it returned {section!r}; expected ontogeny.Section objects"
                    raise TypeError(msg)  # noqa: TRY301  said like all else that is wrong with it
                yield section
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001  a plugin may fail in any way
            what = f"{type(error).__name__}: {error}"
            yield Section(f"From {implementation.plugin_name}", f"This section failed: {what}")


def _section(section: Section) -> Json:
    paragraphs = [" ".join(each.split()) for each in section.text.split("\n\n")]
    return {**vars(section), "paragraphs": [each for each in paragraphs if each]}


def _budget(stages: list[StageFacts]) -> Json:
    numeric = ["parameters", "steps", "tokens", "tokens/s", "time", "attempts", "memory", "device"]
    rows = []
    for stage in stages:
        taken = stage.budget
        seconds = taken.get("seconds")
        rate = stage.tokens / seconds if stage.tokens and seconds else None
        rows.append(
            (
                stage.name,
                stage.parameters or None,
                stage.steps,
                stage.tokens,
                None if rate is None else f"{rate:,.0f}",
                None if seconds is None else duration(seconds),
                taken.get("attempts"),
                _bytes(taken.get("memory")),
                _bytes(taken.get("device_memory")),
            )
        )
    return {"columns": ["stage", *numeric], "rows": rows, "numeric": numeric}


def _bytes(count: float | None) -> str | None:
    return f"{count / 1e6:,.0f} MB" if count else None


def _versions(status: Json) -> Iterator[tuple[str, str]]:
    yield from cast("dict[str, str]", status.get("versions", {})).items()
    for plugin in registry().plugins:
        if plugin.origin != "ontogeny" and not plugin.disabled:
            yield f"plugin {plugin.name}", plugin.where


def _components(stage: StageFacts) -> Iterator[tuple[str, str, str]]:
    for key, version in stage.lineage.get("components", {}).items():
        yield stage.name, key, version


def _reproduce(run: RunFacts) -> Mapping[str, Any]:
    made = [stage for stage in run.stages if (stage.folder / "checkpoint").is_dir()]
    if made:
        words = f"This makes the checkpoint of {made[-1].name} again, with the same versions:"
        return {"words": words, "command": script(made[-1].lineage).text}
    return {"words": "The run was started with:", "command": command_line(run.status["run"])}
