"""What a model is served to write an answer: the prompt of a row, as text and as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ontogeny.chat.conversation import (
    UnfitError,
    conversation_of,
    require_bare,
    words_of,
)
from ontogeny.chat.encoding import special_start
from ontogeny.chat.template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Row


@dataclass(frozen=True)
class Prompt:
    """A prompt and the answer that is known to it."""

    shown: str  # what a person reads of it
    text: str  # what a model gets
    answer: str
    is_bare: bool  # the tokenizer's own start, such as <s>, does not stand in the text


def prompt_of(row: Row, template: ChatTemplate | None) -> Prompt:
    """Return the prompt of the last answer of a row; raise UnfitError where there is none."""
    if "messages" not in row and "prompt" not in row:
        raise UnfitError("the row has no prompt")
    conversation = conversation_of(row, "last")
    turn = conversation.trained[-1]
    answer = words_of(conversation.messages[turn])
    if template is not None:
        shown = words_of(conversation.messages[turn - 1]) if turn else ""
        return Prompt(shown, template.before(conversation, turn), answer, is_bare=False)
    require_bare(row)
    return Prompt(str(row["prompt"]), str(row["prompt"]), answer, is_bare=True)


def prompt_ids(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, *, encoder: bool) -> list[int]:
    """Return the tokens that a decoder gets before its answer, or that an encoder gets."""
    ids = tokenizer(prompt.text, add_special_tokens=encoder, verbose=False)["input_ids"]
    start = special_start(tokenizer) if prompt.is_bare and not encoder else []
    return [*start, *cast("list[int]", ids)]
