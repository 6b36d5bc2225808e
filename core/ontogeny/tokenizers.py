"""Tokenizers: loading one by name, and the digest that caches go by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ontogeny.digest import digest_json
from ontogeny.errors import CheckpointError

if TYPE_CHECKING:
    from ontogeny.configuration import StageConfig


def named_tokenizer(config: StageConfig) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of `tokenizer.source`, else of `model.source`, else nothing."""
    for key, source in (
        ("tokenizer.source", config.tokenizer.source),
        ("model.source", config.model.source),
    ):
        if source is not None:
            return load_tokenizer(key, source)
    return None


def load_tokenizer(key: str, source: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or Hub name; `key` is the option that names it.

    Raises CheckpointError where there is none.
    """
    try:
        return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(source))
    except Exception as error:  # the kinds differ between families and versions
        reason = f"{error}.".splitlines()[0].rstrip(".: ")
        what = f"is neither a folder nor a Hub name that can be reached ({reason})"
        if Path(source).exists():
            what = f"holds no tokenizer that can be loaded ({reason}); set tokenizer.source to one"
        raise CheckpointError(f"{key} is {source!r}, which {what}") from error


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of everything that decides the ids of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    for name in ("padding", "truncation"):  # how it was last called, not what it is
        rules.pop(name, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest_json({"rules": rules, "special": special, "chat": tokenizer.chat_template})
