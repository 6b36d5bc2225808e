"""Export, top to bottom: open the checkpoint, write each format, compare, and only then keep it."""

from __future__ import annotations

import gc
import json
import shutil
from itertools import chain, islice
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.adapter import Bundle
from ontogeny.checkpoint import figures_of, is_adapter_folder, write_lineage
from ontogeny.data.pipeline import SourceReader, sources_of
from ontogeny.disk_space import folder_size
from ontogeny.errors import ConfigError, DataError, UserError
from ontogeny.folders import write_folder, write_text
from ontogeny.liveness import unread
from ontogeny.models import new_weights
from ontogeny.quantization import dequantise, is_quantised
from ontogeny.stage import Sample, Stage, StageContext, StageResult
from ontogeny.tokenizers import named_tokenizer
from ontogeny_plugins.export.verification import Difference, Texts, compare

if TYPE_CHECKING:
    from torch import nn

    from ontogeny.evaluator import Metrics
    from ontogeny.exporter import Exporter
    from ontogeny.head import Head
    from ontogeny_plugins.export import Export

READ_LATER = ("logger.", "callbacks.", "stage.", "exporter.")


class NoCopyError(UserError):
    """An export says something else than its checkpoint; it was not kept."""


class ExportStage(Stage):
    """Writes `model.source` in every format of `exporter`."""

    def __init__(self, config: Export) -> None:
        self.config = config

    def run(self, context: StageContext) -> StageResult:
        """Leave `exports/<format>/` and what was measured; the checkpoint is that of before."""
        exporters = self._exporters(context)
        bundle = self._load(context)
        source = str(context.config.model.source)
        for exporter in exporters.values():
            exporter.check(bundle, source)
        texts = self._texts(context, bundle)
        if context.config.preflight:
            _require_read_keys(context)
        metrics: dict[str, Metrics] = {}
        samples: list[Sample] = []
        for name, exporter in exporters.items():
            found = self._export(context, bundle, name, exporter, texts)
            metrics[name] = found[1]
            samples += _samples(name, found[0], is_first=not samples)
        shown = [{"prompt": sample.prompt, "text": sample.text} for sample in samples]
        write_text(context.folder / "samples.json", json.dumps(shown, indent=2) + "\n")
        context.announce(f"the exports are in stages/{context.name}/exports of this run's folder")
        return StageResult(metrics=metrics, samples=samples)

    def _exporters(self, context: StageContext) -> dict[str, Exporter]:
        config = context.config
        if not config.exporter:
            known = ", ".join(sorted(context.registry.components["exporter"]))
            msg = f"exporter is empty, so there is nothing to write; choose some of {known}"
            raise ConfigError(msg)
        if config.model.source is None:
            msg = (
                "model.source is not set; an export needs a checkpoint folder or Hub name (in a "
                "lifecycle, it is that of the stage before)"
            )
            raise ConfigError(msg)
        for key in ("adapter", "evaluator"):
            if found := getattr(config, key):
                msg = f"{key} is {', '.join(found)}, which an export does not read; leave it out"
                raise ConfigError(msg)
        build = context.registry.build
        return {name: cast("Exporter", build(each)) for name, each in config.exporter.items()}

    def _load(self, context: StageContext) -> Bundle:
        """Return the whole model in float32, in eval mode, on the CPU."""
        config = context.config
        tokenizer = named_tokenizer(config)
        assert tokenizer is not None  # noqa: S101  there is a source
        head = cast("Head", context.registry.build(config.head))
        model = head.load(config.model, tokenizer)
        if new := sorted(new_weights(model)):
            msg = (
                f"model.source is {config.model.source!r}, which lacks {len(new)} weights of this "
                f"head, such as {new[0]}: they would be random; choose the head that it has, such "
                f"as head=causal_lm, head=masked_lm or head=sequence_classification"
            )
            raise ConfigError(msg)
        if is_quantised(model):
            dequantise(model)
            context.announce("model: weights in few bits are written as the numbers they stand for")
        if is_adapter_folder(str(config.model.source)):
            context.announce("model: the adapter is merged into its base")
        cast("nn.Module", model).to(torch.float32).eval()
        return Bundle(model, tokenizer, head)

    def _texts(self, context: StageContext, bundle: Bundle) -> Texts:
        """Return rows that were never trained on, then others, as many as are asked for."""
        data, wanted = context.config.data, self.config.rows
        found: list[str] = []
        for name, source in sources_of(data).items():
            path = data.validation.path or source.path
            reader = SourceReader(name, path, data, [("text",)])
            records = chain(reader.held_out_records(), reader.training_records())
            found += [str(record.row["text"]) for record in islice(records, wanted)]
        length, tokens = data.max_length, self.config.answer_tokens
        texts = Texts.of(bundle, found[:wanted], self.config.prompts, length, tokens)
        if not texts.rows:
            msg = "the data holds no text of two tokens or more to compare an export on"
            raise DataError(msg)
        context.announce(f"data: {len(texts.rows)} texts to compare each export on")
        return texts

    def _export(
        self, context: StageContext, bundle: Bundle, name: str, exporter: Exporter, texts: Texts
    ) -> tuple[Difference, Metrics]:
        folder = context.folder / "exports" / name
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off
        with write_folder(folder) as unfinished:
            exporter.export(bundle, str(context.config.model.source), unfinished)
            size = folder_size(unfinished) / 1e6
            exported = exporter.open(unfinished)
            found = compare(bundle, exported, texts)
            note = f" ({exported.note})" if exported.note else ""
            exported.close()
            del exported
            gc.collect()  # files that are mapped into memory
            self._require_copy(name, exporter, found)
            metrics = found.metrics(size)
            figures = figures_of({f"Export: {name}, beside the checkpoint": metrics})
            write_lineage(unfinished, {**context.lineage, "figures": figures})
        context.announce(f"{name}: {_said(found, size)}{note}")
        return found, metrics

    def _require_copy(self, name: str, exporter: Exporter, found: Difference) -> None:
        what = None
        if not found.largest <= exporter.tolerance:  # also where it is no number
            what = (
                f"its outputs are off by {found.largest:.2g}, relative to the largest, where "
                f"{exporter.tolerance:.2g} is what the format may cost"
            )
        elif found.misread is not None:
            what = f"its tokenizer encodes {found.misread[:60]!r} otherwise"
        elif found.change is not None and not abs(found.change) <= self.config.budget:
            what = (
                f"bits per byte change by {found.change:+.2%}, where stage.budget allows "
                f"{self.config.budget:.2%}: choose a format with more bits, or raise it"
            )
        if what is not None:
            raise NoCopyError(f"exporter.{name}: the export is not the checkpoint: {what}")


def _samples(name: str, found: Difference, *, is_first: bool) -> list[Sample]:
    """Return what the checkpoint answers, once, and what an export answers otherwise."""
    samples = []
    for prompt, own, given in found.answers:
        shown = " ".join(prompt.split())
        if is_first:
            samples.append(Sample(f"(checkpoint) {shown} … ", " ".join(own.split())))
        if given != own:
            samples.append(Sample(f"({name}) {shown} … ", " ".join(given.split())))
    return samples


def _said(found: Difference, megabytes: float) -> str:
    change = "" if found.change is None else f", bits per byte {found.change:+.3%}"
    agree = found.agreeing / max(found.positions, 1)
    return f"{megabytes:.1f} MB, verified: outputs agree at {agree:.1%} of the positions{change}"


def _require_read_keys(context: StageContext) -> None:
    keys = [key for key in context.overrides if not f"{key}.".startswith(READ_LATER)]
    if dead := unread(context.config, keys):
        msg = f"nothing reads {', '.join(dead)} in an export; leave it out, or set preflight=off"
        raise ConfigError(msg)
