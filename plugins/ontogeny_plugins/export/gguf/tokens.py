"""A byte-level BPE tokenizer as GGUF has it: tokens, merges, and the name of how text is split."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from ontogeny.errors import ConfigError
from ontogeny.token_ids import end_of_turn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Rules = dict[str, Any]  # what `Tokenizer.to_str` writes
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
# How llama.cpp calls a way to split text, by its steps.
SPLITS = {
    ("bytes with regex",): "gpt-2",
    ("single digits", "bytes with regex"): "smollm",
    (LLAMA3, "bytes"): "llama-bpe",
    (QWEN2, "bytes"): "qwen2",
}


def require_tokens(tokenizer: PreTrainedTokenizerBase) -> Rules:
    """Return the rules of a tokenizer that a GGUF file can hold; raise ConfigError for another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = cast("Rules", json.loads(backend.to_str())) if backend is not None else {}
    kind = rules.get("model", {}).get("type", type(tokenizer).__name__)
    what = None
    if kind != "BPE" or rules["model"].get("byte_fallback"):
        what = f"is of the type {kind}" + " with byte fallback" * (kind == "BPE")
    elif (rules.get("normalizer") or {"type": "NFC"})["type"] != "NFC":
        what = f"changes text before it is split ({rules['normalizer']['type']})"
    elif not rules["model"]["merges"]:
        what = "has no merges"
    elif _split(rules) is None:
        what = "splits text in a way that llama.cpp has no name for"
    if what is not None:
        msg = (
            f"exporter=[gguf]: the tokenizer {what}; supported is byte-level BPE that splits text "
            f"as one of {', '.join(SPLITS.values())} does, such as tokenizer.algorithm=byte_bpe"
        )
        raise ConfigError(msg)
    return rules


def write_tokens(
    writer: Any, rules: Rules, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> None:
    """Write tokens, merges, special ids and the chat template."""
    tokens, kinds = _tokens(rules, tokenizer, model.config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split(rules))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in rules["model"]["merges"]])
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(bool(ids) and ids[-1] == tokenizer.eos_token_id)
    for name, number in _special_ids(tokenizer, model).items():
        getattr(writer, f"add_{name}_token_id")(number)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _tokens(
    rules: Rules, tokenizer: PreTrainedTokenizerBase, rows: int
) -> tuple[list[str], list[int]]:
    """Return a token and its kind for each row of the embeddings; spare rows have none."""
    kind = import_module("gguf").TokenType
    tokens, kinds = [f"[PAD{row}]" for row in range(rows)], [kind.UNUSED] * rows
    for token, number in rules["model"]["vocab"].items():
        tokens[number], kinds[number] = token, kind.NORMAL
    for number, added in tokenizer.added_tokens_decoder.items():
        tokens[number] = added.content
        kinds[number] = kind.CONTROL if added.special else kind.USER_DEFINED
    return tokens, [int(each) for each in kinds]


def _special_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> dict[str, int]:
    """Return ids by GGUF's names; what ends a text is eos, eot and eom there."""
    named = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    found = {name: int(number) for name, number in named.items() if number is not None}
    ends = model.generation_config.eos_token_id
    more = [end_of_turn(tokenizer), *(ends if isinstance(ends, list) else [ends])]
    others = dict.fromkeys(each for each in more if each not in {None, found.get("eos")})
    names = ["eot", "eom"] if "eos" in found else ["eos", "eot", "eom"]
    return found | {name: int(cast("int", each)) for name, each in zip(names, others, strict=False)}


def _split(rules: Rules) -> str | None:
    """Return llama.cpp's name of how text is split, or None."""
    step = rules.get("pre_tokenizer") or {}
    steps = step["pretokenizers"] if step.get("type") == "Sequence" else [step]
    return SPLITS.get(tuple(_described(each) for each in steps))


def _described(step: dict[str, Any]) -> str:
    kind = step.get("type")
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return "bytes with regex" if step["use_regex"] else "bytes"
    if kind == "Digits" and step["individual_digits"]:
        return "single digits"
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return str(step["pattern"].get("Regex"))
    return str(step)
