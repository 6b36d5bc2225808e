"""Writes a GGUF file, and opens it in llama.cpp."""

from __future__ import annotations

import copy
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForCausalLM, GgufConfig

from ontogeny.errors import ConfigError
from ontogeny.exporter import Exported, Exporter
from ontogeny_plugins.export.gguf.families import family_of
from ontogeny_plugins.export.gguf.metadata import write_sizes
from ontogeny_plugins.export.gguf.tokens import require_tokens, write_tokens
from ontogeny_plugins.export.gguf.weights import write_weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from ontogeny.adapter import Bundle
    from ontogeny_plugins.export import Gguf

# Relative to the largest logit; what fewer bits cost in all is for stage.budget to judge.
TOLERANCES = {"f32": 1e-3, "f16": 2e-2, "bf16": 1e-1, "q8_0": 1e-1}
FEW_BITS = 1.0
CONTEXT = 512  # tokens that llama.cpp holds logits for; more where a row is longer
FLOAT32 = 0  # ggml's number of the type, for the cache of keys and values


class GgufExporter(Exporter):
    """One file: sizes, tokens, chat template, weights."""

    def __init__(self, config: Gguf) -> None:
        self.config = config
        self.tolerance = TOLERANCES.get(config.dtype, FEW_BITS)
        self.sizes: PreTrainedConfig | None = None  # of what was written

    @property
    def file(self) -> str:
        """The name of the file, which says its type as is usual."""
        return f"model-{self.config.dtype}.gguf"

    def check(self, bundle: Bundle, source: str) -> None:
        """Raise ConfigError for another family or tokenizer, and without the package."""
        del source
        family_of(bundle.model)
        require_tokens(bundle.tokenizer)
        if find_spec("gguf") is None:
            msg = "exporter=[gguf] needs the package gguf: pip install 'ontogeny[export]'"
            raise ConfigError(msg)

    def export(self, bundle: Bundle, source: str, folder: Path) -> None:
        """Write the file."""
        del source
        gguf = import_module("gguf")
        model, family = bundle.model, family_of(bundle.model)
        # A file that bears the name of another family is read as that one.
        bears_its_name = family.architecture == model.config.model_type
        self.sizes = model.config if bears_its_name else None
        writer = gguf.GGUFWriter(folder / self.file, family.architecture)
        dtype = self.config.dtype.upper()
        names = {each.name: each for each in gguf.LlamaFileType}
        writer.add_file_type(int(names["ALL_F32" if dtype == "F32" else f"MOSTLY_{dtype}"]))
        if dtype.startswith("Q"):
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        write_sizes(writer, model.config)
        write_tokens(writer, require_tokens(bundle.tokenizer), bundle.tokenizer, model)
        write_weights(writer, model, family, dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def open(self, folder: Path) -> Exported:
        """Open the file in llama.cpp; without its package, in transformers."""
        if find_spec("llama_cpp") is None:
            return ReadBack(folder, self.file, self.sizes)
        return InLlamaCpp(folder / self.file)


class InLlamaCpp(Exported):
    """The file as its users open it, with keys and values in float32: to see what weights cost."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._opened: Any = None
        self._open(CONTEXT)

    def _open(self, context: int) -> None:
        self.close()
        self._opened = import_module("llama_cpp").Llama(
            str(self.file),
            n_ctx=context,
            n_batch=context,
            logits_all=True,
            type_k=FLOAT32,
            type_v=FLOAT32,
            verbose=False,
        )

    def outputs(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of one row."""
        if len(ids) > self._opened.n_ctx():
            self._open(len(ids))
        self._opened.reset()
        self._opened.eval(list(ids))
        return torch.tensor(self._opened.scores[: len(ids)]).float()

    def encode(self, text: str) -> list[int]:
        """Return the ids that llama.cpp makes of a text."""
        given = text.encode()
        return cast("list[int]", self._opened.tokenize(given, add_bos=False, special=True))

    def close(self) -> None:
        """Free the model."""
        if self._opened is not None:
            self._opened.close()


class ReadBack(Exported):
    """The file as transformers reads it: the weights, but not how llama.cpp computes with them."""

    note = "llama-cpp-python is not installed: read back by transformers, tokenizer not compared"

    def __init__(self, folder: Path, file: str, sizes: PreTrainedConfig | None) -> None:
        """Open the file; `sizes` are those that transformers does not read out of one."""
        known: dict[str, Any] = {} if sizes is None else {"config": copy.deepcopy(sizes)}
        self.model = cast(
            "nn.Module",
            AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=file,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                **known,
            ),
        ).eval()

    def outputs(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of one row."""
        with torch.no_grad():
            return cast("Tensor", self.model(input_ids=torch.tensor([ids])).logits[0]).float()
