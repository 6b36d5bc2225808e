"""Tokenizers trained on the data of a run: byte-level BPE, single characters, or WordPiece."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ontogeny.checkpoint import save_tokenizer
from ontogeny.data.pipeline import SourceReader, digest_source, sources_of
from ontogeny.digest import DigestCache, digest_json
from ontogeny.errors import ConfigError
from ontogeny.options import require_choice
from ontogeny_plugins.pretraining import wordpiece

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from ontogeny import options
    from ontogeny.objective import Objective
    from ontogeny.stage import StageContext

SEPARATOR = "<|endoftext|>"  # begins and ends documents
PADDING = "<|padding|>"  # a token of its own: padding is never mistaken for the end of a text
BYTES = 256
SPECIAL = {"bos_token": SEPARATOR, "eos_token": SEPARATOR, "pad_token": PADDING}


def trained_tokenizer(context: StageContext) -> PreTrainedTokenizerBase:
    """Train a tokenizer on all sources, or find it in the store."""
    data, choice = context.config.data, context.config.tokenizer
    require_choice("tokenizer.algorithm", choice.algorithm, tuple(ALGORITHMS))
    special = _special_tokens(context)
    readers = [SourceReader(n, s.path, data, [("text",)]) for n, s in sources_of(data).items()]
    cache = DigestCache(context.store.root / "digests")
    key = digest_json(
        {
            "content": [digest_source(reader.path, cache) for reader in readers],
            "reading": [reader.identity() for reader in readers],
            "algorithm": choice.algorithm,
            "vocab_size": choice.vocab_size,
            "min_frequency": choice.min_frequency,
            **({"special": special} if special else {}),
        }
    )
    folder = context.store.create("tokenizers", key, partial(_build, choice, special, readers))
    return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder))


def _special_tokens(context: StageContext) -> dict[str, str]:
    """Return the special tokens that the objective of the stage needs, by transformers' names."""
    component = context.registry.find(context.config.objective)[1].component
    return dict(cast("type[Objective]", component.load()).special_tokens)


def _build(
    choice: options.Tokenizer,
    special: Mapping[str, str],
    readers: list[SourceReader],
    folder: Path,
) -> None:
    algorithm = ALGORITHMS[choice.algorithm]
    named = {**algorithm.special, **special}
    backend = algorithm.train(_Texts(readers), choice, list(dict.fromkeys(named.values())))
    if {"cls_token", "sep_token"} <= named.keys():
        backend.post_processor = _frame(backend, named["cls_token"], named["sep_token"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **named
    )
    save_tokenizer(tokenizer, folder)


@dataclass(frozen=True)
class _Texts:
    """All texts of the data, as often as somebody goes through them."""

    readers: list[SourceReader]

    def __iter__(self) -> Iterator[str]:
        for reader in self.readers:
            yield from (str(record.row["text"]) for record in reader.training_records())


def _frame(backend: Tokenizer, start: str, end: str) -> processors.TemplateProcessing:
    """Put special tokens around a text, and between two, as BERT's tokenizer does."""
    return processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in (start, end)],
    )


def byte_bpe(
    texts: Iterable[str], choice: options.Tokenizer, special: Sequence[str] = (SEPARATOR, PADDING)
) -> Tokenizer:
    """Train byte-level BPE (Sennrich et al., 2016; Radford et al., 2019): any text round-trips."""
    if choice.vocab_size < BYTES + len(special):
        msg = f"tokenizer.vocab_size is {choice.vocab_size}; byte_bpe needs {BYTES + len(special)}"
        raise ConfigError(msg)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=choice.vocab_size,
        min_frequency=choice.min_frequency,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def characters(
    texts: Iterable[str], choice: options.Tokenizer, special: Sequence[str] = (SEPARATOR, PADDING)
) -> Tokenizer:
    """Make every character of the data a token, as in character-level models."""
    found = sorted(set().union(*map(set, texts)))
    tokens = [*special, *found, "<|unknown|>"]
    if len(tokens) > choice.vocab_size:
        msg = (
            f"tokenizer.vocab_size is {choice.vocab_size}, but the data has {len(found)} different "
            f"characters; raise it to {len(tokens)} or use tokenizer.algorithm=byte_bpe"
        )
        raise ConfigError(msg)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return backend


@dataclass(frozen=True)
class Algorithm:
    """A way to make a tokenizer, and the special tokens that it always has."""

    train: Callable[[Iterable[str], options.Tokenizer, Sequence[str]], Tokenizer]
    special: Mapping[str, str]


ALGORITHMS = {
    "byte_bpe": Algorithm(byte_bpe, SPECIAL),
    "characters": Algorithm(characters, SPECIAL),
    "wordpiece": Algorithm(wordpiece.wordpiece, wordpiece.SPECIAL),
}
