"""Small tokenizers of all types, trained on general text, and text of another domain."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ontogeny.data.corpus import Corpus
from ontogeny.data.reading import read_rows
from ontogeny.options import Data
from ontogeny.store import Store

SIZE = 600
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def shipped(name: str, rows: int) -> list[str]:
    records = read_rows(
        f"pkg://ontogeny_plugins.demo/data/{name}.jsonl.gz",
        columns={},
        required=[("text",)],
        text_unit="document",
        on_error="error",
        rejected=None,
    )
    return [str(record.row["text"]) for record in islice(records, rows)]


@pytest.fixture(scope="session")
def general() -> list[str]:
    return shipped("general", 40)


@pytest.fixture(scope="session")
def domain() -> list[str]:
    return shipped("domain", 400)


@pytest.fixture(scope="session")
def held_out() -> list[str]:
    return shipped("domain_test", 100)


def byte_level(texts: list[str]) -> Tokenizer:
    """As GPT-2's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def sentencepiece(texts: list[str]) -> Tokenizer:
    """As Llama 2's: spaces are written ▁, nothing is split, unknown characters are bytes."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = ["<unk>", "<s>", "</s>", *BYTES]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE + 256, special_tokens=special, limit_alphabet=80, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    model = models.BPE(
        learnt["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    backend = Tokenizer(model)
    backend.add_special_tokens(special[:3])
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return backend


def wordpiece(texts: list[str]) -> Tokenizer:
    """As BERT's, uncased."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=SIZE, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return backend


def unigram(texts: list[str]) -> Tokenizer:
    """As T5's or ALBERT's."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


KINDS: dict[str, Callable[[list[str]], Tokenizer]] = {
    "byte_level": byte_level,
    "sentencepiece": sentencepiece,
    "wordpiece": wordpiece,
    "unigram": unigram,
}


@pytest.fixture(scope="session")
def rules(general: list[str]) -> dict[str, str]:
    """Return the rules of a tokenizer of each kind, as JSON; all have a token after the others."""
    written = {}
    for kind, make in KINDS.items():
        backend = make(general)
        backend.add_special_tokens(["<|chat|>"])
        written[kind] = backend.to_str()
    return written


@pytest.fixture
def tokenizer(rules: dict[str, str]) -> Callable[[str], PreTrainedTokenizerBase]:
    """Return a function that makes a tokenizer of a kind."""

    def make(kind: str) -> PreTrainedTokenizerBase:
        special = {
            "byte_level": {"eos_token": "<|end|>"},
            "sentencepiece": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
            "wordpiece": {"unk_token": "[UNK]", "mask_token": "[MASK]", "pad_token": "[PAD]"},
            "unigram": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        }
        backend = Tokenizer.from_str(rules[kind])
        return PreTrainedTokenizerFast(tokenizer_object=backend, **special[kind])

    return make


@pytest.fixture
def corpus(tmp_path: Path, domain: list[str]) -> Corpus:
    """Return the domain text as a stage has it, a twentieth of it held out; `said` is heard."""
    file = tmp_path / "domain.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in domain))
    return Corpus(Data(path=str(file)), [("text",)], Store(tmp_path / "store"), lambda _: None)
