"""The model card of a checkpoint, made from its lineage: what is known, and what is not stated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ontogeny.data.hub import is_hub_name
from ontogeny.options import Trainer

if TYPE_CHECKING:
    Row = Sequence[object]

# The Hub's word for what a model with this kind of head does.
TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForConditionalGeneration": "text2text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
}
ABOUT = (
    "`lineage.json` beside this file holds its whole configuration and that of the stages before "
    "it; `ontogeny show` draws it, and `ontogeny reproduce-run` prints the command that makes it "
    "again."
)
# What decides the result of a training, without where it runs and what it writes.
VOLATILE = {item.name for item in fields(Trainer) if item.metadata.get("volatile")}
TRAINING = ("objective", "adapter", "optimizer", "scheduler", "trainer", "seed", "precision")
UNSTATED = (
    "Not stated. What the data and the base model allow decides it: read their licences, and put "
    "`license:` at the top of this file before you publish."
)


def model_card(lineage: Mapping[str, object], folder: Path) -> str:
    """Return the text of README.md: the Hub's metadata, then tables for people."""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=_task(folder),
        tags=["ontogeny"],
        base_model=_base(lineage),
        datasets=_datasets(lineage) or None,
        model_name=str(lineage.get("stage", "checkpoint")),
        eval_results=_results(lineage, _task(folder)) or None,
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(lineage)}\n")
    return str(card)


def _body(lineage: Mapping[str, object]) -> str:
    stage = lineage.get("stage", "checkpoint")
    parts = [
        f"# {stage}",
        f"Made by the stage `{stage}` of Ontogeny. {ABOUT}",
        _section("Where it comes from", _table(("stage", "steps", "key"), _stages(lineage))),
        _section(
            "What was measured",
            _table(("metric", "value", "95 % interval", "unit"), _metrics(lineage)),
        ),
        *_figures(lineage),
        _section(
            "Data",
            _table(("source", "path", "rows", "held out", "share of tokens"), _data(lineage)),
        ),
        _section("Training", _yaml(_training(lineage))),
        _section("Licence", _licence(lineage)),
        _section("Versions", _table(("package", "version"), _versions(lineage))),
    ]
    return "\n\n".join(part for part in parts if part)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _table(heads: Sequence[str], rows: Iterator[Row]) -> str:
    lines = [" | ".join(_cell(value) for value in row) for row in rows]
    if not lines:
        return ""
    rule = " | ".join("---" for _ in heads)
    return "\n".join(f"| {line} |" for line in (" | ".join(heads), rule, *lines))


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _stages(lineage: Mapping[str, object]) -> Iterator[Row]:
    before = cast("list[dict[str, object]]", lineage.get("ancestors", []))
    for each in (*before, lineage):
        yield each.get("stage"), each.get("steps"), each.get("key")


def _metrics(lineage: Mapping[str, object]) -> Iterator[Row]:
    for evaluator, name, metric in _measured(lineage):
        interval = ""
        if metric.get("low") is not None and metric.get("high") is not None:
            interval = f"{metric['low']:.4g} to {metric['high']:.4g}"
        yield f"{evaluator}/{name}", f"{metric['value']:.4g}", interval, metric.get("unit")


def _figures(lineage: Mapping[str, object]) -> Iterator[str]:
    """Yield a table for each heading of what a stage has measured beside its metrics."""
    figures = cast("dict[str, dict[str, dict[str, float]]]", lineage.get("figures", {}))
    for heading, values in figures.items():
        rows = ((name, f"{each['value']:.6g}", each["unit"]) for name, each in values.items())
        yield _section(heading, _table(("figure", "value", "unit"), rows))


def _measured(lineage: Mapping[str, object]) -> Iterator[tuple[str, str, dict[str, float]]]:
    metrics = cast("dict[str, dict[str, dict[str, float]]]", lineage.get("metrics", {}))
    for evaluator, values in metrics.items():
        for name, metric in values.items():
            yield evaluator, name, metric


def _data(lineage: Mapping[str, object]) -> Iterator[Row]:
    for source in _sources(lineage):
        share = cast("float", source.get("share", 1.0))
        held_out = source.get("held_out")
        yield source.get("name"), source.get("path"), source.get("rows"), held_out, f"{share:.1%}"


def _sources(lineage: Mapping[str, object]) -> list[dict[str, object]]:
    return cast("list[dict[str, object]]", lineage.get("data", []))


def _training(lineage: Mapping[str, object]) -> dict[str, object]:
    config = cast("dict[str, object]", lineage.get("config", {}))
    found = {name: config[name] for name in TRAINING if config.get(name) not in (None, {}, [])}
    trainer = cast("dict[str, object]", found.get("trainer", {}))
    return {**found, "trainer": {n: v for n, v in trainer.items() if n not in VOLATILE}}


def _yaml(values: Mapping[str, object]) -> str:
    """Return options one a line, by their keys; those that are not set are left out."""
    lines = [f"{key}={json.dumps(value)}" for key, value in _leaves("", values)]
    return "\n".join(["```text", *lines, "```"]) if lines else ""


def _leaves(prefix: str, values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(f"{prefix}{name}.", cast("Mapping[str, object]", value))
        elif value is not None:
            yield f"{prefix}{name}", value


def _versions(lineage: Mapping[str, object]) -> Iterator[Row]:
    yield from cast("dict[str, str]", lineage.get("versions", {})).items()
    yield from cast("dict[str, str]", lineage.get("components", {})).items()


def _licence(lineage: Mapping[str, object]) -> str:
    """Say what is known: nothing of our own, and what a base model's card declares."""
    for each in cast("list[dict[str, object]]", [lineage, *_before(lineage)]):
        parent = each.get("parent")
        if isinstance(parent, str) and (Path(parent) / "README.md").is_file():
            found = ModelCard.load(Path(parent) / "README.md", ignore_metadata_errors=True).data
            if found.license:
                return f"{UNSTATED}\n\nThe card of {parent} declares `{found.license}`."
    return UNSTATED


def _before(lineage: Mapping[str, object]) -> list[object]:
    return cast("list[object]", lineage.get("ancestors", []))


def _base(lineage: Mapping[str, object]) -> str | None:
    """Return the name of the model at the beginning, where it is one that the Hub knows."""
    for each in cast("list[dict[str, object]]", [lineage, *_before(lineage)]):
        parent = each.get("parent")
        if isinstance(parent, str) and is_hub_name(parent):
            return parent
    return None


def _datasets(lineage: Mapping[str, object]) -> list[str]:
    paths = [str(source.get("path")) for source in _sources(lineage)]
    return sorted({path for path in paths if is_hub_name(path)})


def _task(folder: Path) -> str | None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    for architecture in config.get("architectures") or []:
        for ending, task in TASKS.items():
            if architecture.endswith(ending):
                return task
    return None


def _results(lineage: Mapping[str, object], task: str | None) -> list[EvalResult]:
    """Return the metrics of the whole in the Hub's form, which has no place for intervals."""
    data = ", ".join(str(source.get("name")) for source in _sources(lineage)) or "own rows"
    return [
        EvalResult(
            task_type=task or "other",
            dataset_type="held-out",
            dataset_name=f"held-out rows of {data}",
            metric_type=name,
            metric_name=f"{evaluator}/{name}",
            metric_value=metric["value"],
        )
        for evaluator, name, metric in _measured(lineage)
        if "/" not in name
    ]
