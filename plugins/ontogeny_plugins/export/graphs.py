"""Graphs without Python: ONNX, and torch.export programs, both made by transformers' exporters."""
# B rows, T tokens

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from abc import abstractmethod
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch.export import Dim
from transformers.utils import logging as transformers_logging

from ontogeny.checkpoint import save_tokenizer
from ontogeny.errors import ConfigError
from ontogeny.exporter import Exported, Exporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny_plugins.export import Onnx, Program

INPUTS = ("input_ids", "attention_mask")
SUPPORTED = "decoders and encoders, such as llama, qwen3, gpt2, bert and modernbert"
LONGEST_REASON = 160  # characters of what a library says
TALKATIVE = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
Run = "Callable[[Mapping[str, Tensor]], Tensor]"


class OpenedGraph(Exported):
    """A graph that is given rows with a mask; each is read beside a shorter one, as in a batch."""

    def __init__(self, run: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
        self.run = run

    def outputs(self, ids: Sequence[int]) -> Tensor:
        """Return the first output of one row, which is padded on its right in a batch of two."""
        ids_BT = torch.tensor([ids, ids])
        mask_BT = torch.ones_like(ids_BT)
        mask_BT[1, len(ids) // 2 + 1 :] = 0
        return self.run(dict(zip(INPUTS, (ids_BT, mask_BT), strict=True)))[0].float()


class GraphExporter(Exporter):
    """What both formats share: the inputs, and what lies beside the graph."""

    needs: ClassVar[Sequence[str]] = ()  # packages
    name: ClassVar[str]
    tolerance = 1e-3  # kernels add in another order

    def check(self, bundle: Bundle, source: str) -> None:
        """Raise ConfigError for models with another kind of input, and without the packages."""
        del source
        model = bundle.model
        if model.config.is_encoder_decoder:
            msg = (
                f"exporter=[{self.name}] writes models with one sequence of tokens as input, and a "
                f"{type(model).__name__} has an encoder and a decoder; supported are {SUPPORTED}"
            )
            raise ConfigError(msg)
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            msg = (
                f"exporter=[{self.name}] needs the packages {', '.join(missing)}: "
                f"pip install 'ontogeny[export]'"
            )
            raise ConfigError(msg)

    def export(self, bundle: Bundle, source: str, folder: Path) -> None:
        """Write the graph, config, tokenizer, template and generation config."""
        del source
        model = copy.deepcopy(bundle.model)
        model.config.use_cache = False  # a graph of its own would be needed for it
        try:
            with _quiet():
                self.trace(model, _sample(bundle.tokenizer)).save_pretrained(folder)
        except Exception as error:  # each family, and each operator, fails in its own way
            reason = " ".join(str(error).split())[:LONGEST_REASON]
            msg = (
                f"exporter=[{self.name}] cannot write a {type(model).__name__} (model_type "
                f"{model.config.model_type}); supported are {SUPPORTED}, as far as torch.export "
                f"can trace them; exporter=[safetensors] writes all. It was told: {reason}"
            )
            raise ConfigError(msg) from error
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        save_tokenizer(bundle.tokenizer, folder)

    @abstractmethod
    def trace(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Any:
        """Return what transformers' exporter makes of a model."""


class OnnxExporter(GraphExporter):
    """Writes model.onnx with its weights beside it."""

    needs = ("onnx", "onnxscript", "onnxruntime")
    name = "onnx"

    def __init__(self, config: Onnx) -> None:
        self.config = config

    def trace(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Any:
        """Return the ONNX program."""
        module = import_module("transformers.exporters.exporter_onnx")
        options = module.OnnxConfig(opset_version=self.config.opset, **_dynamic())
        return module.OnnxExporter().export(model, dict(inputs), config=options)

    def open(self, folder: Path) -> Exported:
        """Open the graph in ONNX Runtime."""
        runtime = import_module("onnxruntime")
        session = runtime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        names = {each.name for each in session.get_inputs()}

        def run(batch: Mapping[str, Tensor]) -> Tensor:
            given = {name: each.numpy() for name, each in batch.items() if name in names}
            return torch.from_numpy(session.run(None, given)[0])

        return OpenedGraph(run)


class ProgramExporter(GraphExporter):
    """Writes model.pt2, which torch.export.load opens."""

    name = "program"

    def __init__(self, config: Program) -> None:
        self.config = config

    def trace(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Any:
        """Return the torch.export program."""
        module = import_module("transformers.exporters.exporter_dynamo")
        options = module.DynamoConfig(**_dynamic())
        return module.DynamoExporter().export(model, dict(inputs), config=options)

    def open(self, folder: Path) -> Exported:
        """Open the program with torch."""
        program = torch.export.load(folder / "model.pt2").module()

        def run(batch: Mapping[str, Tensor]) -> Tensor:
            with torch.no_grad():
                return cast("Tensor", next(iter(program(**batch).values())))

        return OpenedGraph(run)


def _sample(tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """Return a batch to trace with: two rows, one of them padded, of no size that means more."""
    del tokenizer
    ids_BT = torch.arange(3, 25).reshape(2, 11)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 7:] = 0
    return dict(zip(INPUTS, (ids_BT, mask_BT), strict=True))


def _dynamic() -> dict[str, object]:
    """Return the options that let the size of a batch and the length of its rows vary."""
    shape = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    return {"dynamic": True, "dynamic_shapes": dict.fromkeys(INPUTS, shape)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the screen what tracing says of versions, operators and its own progress."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [each.level for each in loggers]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
