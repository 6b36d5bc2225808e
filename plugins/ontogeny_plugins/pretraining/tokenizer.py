"""Tokenizers trained on the data of a run: byte-level BPE, or single characters."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ontogeny.checkpoint import save_tokenizer
from ontogeny.data.pipeline import SourceReader, digest_source, sources_of
from ontogeny.digest import DigestCache, digest_json
from ontogeny.errors import ConfigError
from ontogeny.options import require_choice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from ontogeny import options
    from ontogeny.stage import StageContext

SEPARATOR = "<|endoftext|>"  # begins and ends documents
PADDING = "<|padding|>"  # a token of its own: padding is never mistaken for the end of a text
BYTES = 256


def trained_tokenizer(context: StageContext) -> PreTrainedTokenizerBase:
    """Train a tokenizer on all sources, or find it in the store."""
    data, choice = context.config.data, context.config.tokenizer
    require_choice("tokenizer.algorithm", choice.algorithm, tuple(ALGORITHMS))
    readers = [SourceReader(n, s.path, data, [("text",)]) for n, s in sources_of(data).items()]
    cache = DigestCache(context.store.root / "digests")
    key = digest_json(
        {
            "content": [digest_source(reader.path, cache) for reader in readers],
            "reading": [reader.identity() for reader in readers],
            "algorithm": choice.algorithm,
            "vocab_size": choice.vocab_size,
            "min_frequency": choice.min_frequency,
        }
    )
    folder = context.store.create("tokenizers", key, partial(_build, choice, readers))
    return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder))


def _build(choice: options.Tokenizer, readers: list[SourceReader], folder: Path) -> None:
    texts = (str(record.row["text"]) for reader in readers for record in reader.training_records())
    backend = ALGORITHMS[choice.algorithm](texts, choice)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )
    save_tokenizer(tokenizer, folder)


def byte_bpe(texts: Iterator[str], choice: options.Tokenizer) -> Tokenizer:
    """Train byte-level BPE (Sennrich et al., 2016; Radford et al., 2019): any text round-trips."""
    special = [SEPARATOR, PADDING]
    if choice.vocab_size < BYTES + len(special):
        msg = f"tokenizer.vocab_size is {choice.vocab_size}; byte_bpe needs {BYTES + len(special)}"
        raise ConfigError(msg)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=choice.vocab_size,
        min_frequency=choice.min_frequency,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def characters(texts: Iterator[str], choice: options.Tokenizer) -> Tokenizer:
    """Make every character of the data a token, as in character-level models."""
    found = sorted(set().union(*map(set, texts)))
    tokens = [SEPARATOR, PADDING, *found, "<|unknown|>"]
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


ALGORITHMS: dict[str, Callable[[Iterator[str], options.Tokenizer], Tokenizer]] = {
    "byte_bpe": byte_bpe,
    "characters": characters,
}
