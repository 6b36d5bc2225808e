"""The chat template of a tokenizer: conversations as text, for training and for serving."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from transformers.utils.chat_template_utils import render_jinja_template

from ontogeny.chat.conversation import UnfitError
from ontogeny.token_ids import end_of_turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from ontogeny.chat.conversation import Conversation

LONGEST_REASON = 200  # characters of what a template says
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")

Span = tuple[int, int]  # (start, stop) in characters


class ChatTemplate:
    """Renders conversations, and knows what ends a turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        end = end_of_turn(tokenizer)
        # What stands after an answer, such as <|im_end|>; none in templates without such a token.
        self.end = None if end is None else str(added[end])
        special = [re.escape(str(token)) for token in added.values() if token.special]
        self.special = re.compile("|".join(special) or r"\Z")

    def text(self, conversation: Conversation) -> str:
        """Return all turns."""
        return self._render(conversation, range(len(conversation.messages)))[0]

    def marked(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """Return all turns, and what the template itself marks with `{% generation %}`."""
        return self._render(conversation, range(len(conversation.messages)), marks=True)

    def before(self, conversation: Conversation, turn: int) -> str:
        """Return what a model is served to write a turn: those before it, and what asks for it."""
        return self._render(conversation, range(turn), asks=True)[0]

    def until(self, conversation: Conversation, turn: int) -> str:
        """Return a turn and those before it, as if there were no others."""
        return self._render(conversation, range(turn + 1))[0]

    def _render(
        self, conversation: Conversation, turns: range, *, marks: bool = False, asks: bool = False
    ) -> tuple[str, list[Span]]:
        """Call the template as `apply_chat_template` does, which tells no places of marks."""
        tools = conversation.tools
        template = self._tokenizer.get_chat_template(tools=tools)
        marks = marks and MARKED.search(template) is not None
        call = cast("Callable[..., tuple[list[str], list[list[Span]]]]", render_jinja_template)
        try:
            texts, marked = call(
                [[conversation.messages[turn] for turn in turns]],
                tools=tools,
                chat_template=template,
                return_assistant_tokens_mask=marks,
                add_generation_prompt=asks,
                **{**self._tokenizer.special_tokens_map, **conversation.arguments},
            )
        except Exception as error:  # each template refuses, and fails, in its own way
            reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
            raise UnfitError(f"the chat template cannot render it: {reason}") from error
        return texts[0], [(start, stop) for start, stop in marked[0]] if marks else []
