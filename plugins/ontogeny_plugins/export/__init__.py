"""Stage `export`: a checkpoint in the formats that others read, each proven on real text."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.component import NO_CHECKPOINT
from ontogeny.options import require_choice, require_not_negative, require_positive

PROMPTS = ("It was a fine morning, and", "What is a river?")


@dataclass
class Export:
    """Writes a checkpoint in each of the formats in `exporter`, and compares it with itself."""

    rows: int = 16  # texts of the data that each export is compared on
    # continued by the checkpoint and by each export; with a chat template they are questions
    prompts: list[str] = field(default_factory=lambda: list(PROMPTS))
    answer_tokens: int = 16  # tokens of these continuations, at most; 0: none
    # relative change of bits per byte, as 0.01, beyond which an export is no copy: the stage fails
    budget: float = 0.02

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("stage.rows", self.rows)
        require_not_negative("stage.answer_tokens", self.answer_tokens)
        if self.budget <= 0:
            msg = f"stage.budget is {self.budget}; expected more than 0, as 0.01"
            raise ConfigError(msg)


@dataclass
class SafeTensors:
    """A whole model in an ordinary Hugging Face folder; an adapter is merged into its base."""

    dtype: str = "float32"  # float32, bfloat16 or float16

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        kinds = ("float32", "bfloat16", "float16")
        require_choice("exporter.safetensors.dtype", self.dtype, kinds)


@dataclass
class Peft:
    """An adapter beside its base, as PEFT and vLLM read it; for a checkpoint that is one."""

    base: str | None = (
        None  # name of the base to write into it, such as one on the Hub; none: as is
    )


@dataclass
class Gguf:
    """One GGUF file for llama.cpp, with its tokenizer and chat template."""

    dtype: str = "f16"  # of matrices: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        kinds = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
        require_choice("exporter.gguf.dtype", self.dtype, kinds)


@dataclass
class Onnx:
    """An ONNX graph (torch.onnx, dynamo) in float32; batch and length are dynamic."""

    opset: int | None = None  # version of the operators; none: the newest that onnxscript knows


@dataclass
class Program:
    """A torch.export program in float32, for torch without transformers; batch and length vary."""


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `export`."""
    implementation = "ontogeny_plugins.export.stage:ExportStage"
    return [Component("export", Export, implementation, gives=NO_CHECKPOINT)]


@hookimpl
def ontogeny_exporters() -> list[Component]:
    """Offer the formats."""
    places = {
        "safetensors": (SafeTensors, "folders:SafeTensorsExporter"),
        "peft": (Peft, "folders:PeftExporter"),
        "gguf": (Gguf, "gguf.exporter:GgufExporter"),
        "onnx": (Onnx, "graphs:OnnxExporter"),
        "program": (Program, "graphs:ProgramExporter"),
    }
    return [
        Component(name, config=options, implementation=f"ontogeny_plugins.export.{place}")
        for name, (options, place) in places.items()
    ]
