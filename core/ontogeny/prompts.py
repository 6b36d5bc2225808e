"""Prompts as a model reads them, through its chat template or as plain text, and their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ontogeny.errors import ConfigError, DataError
from ontogeny.evaluator import saying_where

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Row

TEMPLATES = ("auto", "plain")
BETWEEN_TURNS = "\n\n"  # of a conversation that is read as plain text
Turn = Mapping[str, object]  # role, content


@dataclass(frozen=True)
class Prompt:
    """What a model is given, and what it should answer."""

    tokens: list[int]
    answer: str  # empty where the row has none


def prompts_of(bundle: Bundle, rows: Sequence[Row], template: str) -> list[Prompt]:
    """Return the prompts of rows with `prompt` (and `completion`), or with `messages`.

    `template` is "auto", through the tokenizer's chat template where it has one, or "plain", which
    gives a decoder the bare text after what its tokenizer puts before any. The answer is the
    completion, or the last turn where that is the assistant's. Raises ConfigError for conversations
    without a chat template, DataError for a row that leaves nothing to read.
    """
    found = []
    for row in rows:
        with saying_where(row):
            found.append(_prompt(bundle, row, template))
    return found


def plain_tokens(bundle: Bundle, text: str) -> list[int]:
    """Return the ids of a text to go on with: after what begins a document in causal pre-training.

    An encoder-decoder model reads it with the special tokens that its tokenizer sets.
    """
    tokenizer = bundle.tokenizer
    if bundle.model.config.is_encoder_decoder:
        return _ids(tokenizer, text, special=True)
    return [*start_tokens(tokenizer), *_ids(tokenizer, text)]


def start_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what stands before a text: the tokenizer's bos, else eos, token; none without both."""
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [] if start is None else [int(start)]


def _prompt(bundle: Bundle, row: Row, template: str) -> Prompt:
    prompt, answer = _prompt_and_answer(row)
    tokenizer = bundle.tokenizer
    if template == "auto" and tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        render = cast("Callable[..., str]", tokenizer.apply_chat_template)
        tools = row.get("tools")
        text = render(list(turns), tools=tools, tokenize=False, add_generation_prompt=True)
        tokens = _ids(tokenizer, text, special=bool(bundle.model.config.is_encoder_decoder))
    else:
        tokens = _bare_ids(bundle, _plain_text(prompt, template))
    if not tokens:
        msg = f"the prompt {prompt!r} gives no token for the model to read; leave the row out"
        raise DataError(msg)
    return Prompt(tokens, answer)


def _bare_ids(bundle: Bundle, text: str) -> list[int]:
    """Return the ids of a prompt without a template, as a server sends them to a model.

    A decoder gets what the tokenizer puts before a text, such as <s>, and not what it puts after.
    """
    tokenizer = bundle.tokenizer
    if bundle.model.config.is_encoder_decoder:
        return _ids(tokenizer, text, special=True)
    encoded = tokenizer("a", return_special_tokens_mask=True)
    mask = cast("list[int]", encoded["special_tokens_mask"])
    start = cast("list[int]", encoded["input_ids"])[: mask.index(0)]
    return [*start, *_ids(tokenizer, text)]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    encoded = tokenizer(text, add_special_tokens=special, verbose=False)
    return cast("list[int]", encoded["input_ids"])


def _prompt_and_answer(row: Row) -> tuple[str | Sequence[Turn], str]:
    if "messages" in row:
        turns = cast("Sequence[Turn]", row["messages"])
        if turns[-1]["role"] == "assistant":
            return turns[:-1], str(turns[-1]["content"] or "")
        return turns, ""
    completion = row.get("completion", "")
    if not isinstance(completion, str):
        completion = str(cast("Sequence[Turn]", completion)[-1]["content"] or "")
    return cast("str | Sequence[Turn]", row["prompt"]), completion


def _plain_text(prompt: str | Sequence[Turn], template: str) -> str:
    if isinstance(prompt, str):
        return prompt
    if template == "auto":
        msg = (
            "the rows are conversations, but the tokenizer has no chat template; set "
            "tokenizer.source to one that has, or template=plain in the evaluator's options to "
            "read the turns as plain text"
        )
        raise ConfigError(msg)
    return BETWEEN_TURNS.join(str(turn["content"]) for turn in prompt)
