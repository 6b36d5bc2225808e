"""Conversations as text, and the parts of that text which a model is to write.

A template with `{% generation %}` says itself which parts those are. Without it, an answer begins
where the prompt ends that is rendered for serving, and ends with its end-of-turn token: whatever
the template, what is trained is what a served model is asked to write.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ontogeny.chat.conversation import UnfitError, calls_of, words_of

if TYPE_CHECKING:
    from ontogeny.chat.conversation import Conversation, Message
    from ontogeny.chat.template import ChatTemplate, Span

SHOWN = 40  # characters of a text in a message
OTHER = "take another stage.chat_template"


@dataclass(frozen=True)
class Rendered:
    """A text and the parts of it that are trained, in order."""

    text: str
    spans: list[Span]
    is_bare: bool = False  # the tokenizer's own start, such as <s>, does not stand in it


def render(conversation: Conversation, template: ChatTemplate) -> Rendered:
    """Return the text of a conversation with the trained turns marked.

    Raises UnfitError for what the template cannot render or leaves out, and where it writes a
    trained turn otherwise than a served model would.
    """
    text, marked = template.marked(conversation)
    _require_questions(conversation, text)
    _require_tools(conversation, template, text)
    if len(marked) == len(conversation.answers):
        by_turn = dict(zip(conversation.answers, marked, strict=True))
        spans = [by_turn[turn] for turn in conversation.trained]
    else:  # the template marks nothing, or parts of turns
        spans = [_span(conversation, turn, text, template) for turn in conversation.trained]
    spans = [_with_end(span, text, template.end) for span in spans]
    for turn, (start, stop) in zip(conversation.trained, spans, strict=True):
        _require_answer(conversation.messages[turn], turn, text[start:stop])
    return Rendered(text, spans)


def _span(conversation: Conversation, turn: int, text: str, template: ChatTemplate) -> Span:
    """Return where a turn of the assistant begins and ends in the whole text."""
    is_last = turn == len(conversation.messages) - 1
    if turn == 0:
        msg = "the conversation begins with the assistant; expected a turn before the first one"
        raise UnfitError(msg)
    before = template.before(conversation, turn)
    if not text.startswith(before):
        raise UnfitError(_rewritten(before, text, turn, is_last=is_last))
    if is_last:
        return len(before), len(text)
    until = template.until(conversation, turn)
    if text.startswith(until):
        return len(before), len(until)
    return len(before), _end_within(conversation.messages[turn], turn, text, len(before), template)


def _end_within(message: Message, turn: int, text: str, start: int, template: ChatTemplate) -> int:
    """Find the end of a turn that the template writes otherwise once others follow."""
    words = words_of(message).strip()
    found = text.find(words, start)
    end = template.special.search(text, found + len(words))
    if found < 0 or end is None or calls_of(message):
        msg = (
            f"the chat template does not write turn {turn + 1}, of the assistant, as it stands "
            f"once others follow; train on objective.loss_on=last, or {OTHER}"
        )
        raise UnfitError(msg)
    return end.end()


def _with_end(span: Span, text: str, end: str | None) -> Span:
    """Let a span end with the end of its turn, and with nothing after that."""
    start, stop = span
    if end is None:
        return span
    if text.startswith(end, stop):
        return start, stop + len(end)
    last = text.rfind(end, start, stop)
    return (start, last + len(end)) if last >= 0 else span


def _rewritten(before: str, text: str, turn: int, *, is_last: bool) -> str:
    pairs = enumerate(zip(before, text, strict=False))
    same = next((place for place, (left, right) in pairs if left != right), len(text))
    asked, written = before[same : same + SHOWN], text[same : same + SHOWN]
    way_out = "" if is_last else "train on objective.loss_on=last, or "
    return (
        f"the chat template asks for turn {turn + 1} with {asked!r} but writes {written!r} there, "
        f"so that no served model would see what is trained; {way_out}{OTHER}"
    )


def _require_questions(conversation: Conversation, text: str) -> None:
    """Raise UnfitError where the template leaves out what the assistant is told."""
    for turn, message in enumerate(conversation.messages):
        if message["role"] in {"system", "developer", "user"}:
            _require_words(message, turn, text)


def _require_tools(conversation: Conversation, template: ChatTemplate, text: str) -> None:
    if conversation.tools and template.text(replace(conversation, tools=None)) == text:
        raise UnfitError(f"the chat template leaves out the tools; {OTHER}")


def _require_answer(message: Message, turn: int, written: str) -> None:
    """Raise UnfitError where the template leaves out words, or calls of tools, of an answer."""
    _require_words(message, turn, written)
    for call in calls_of(message):
        if str(call.get("name")) not in written:
            msg = (
                f"the chat template leaves out the call of {call.get('name')} in turn {turn + 1}; "
                f"{OTHER}"
            )
            raise UnfitError(msg)


def _require_words(message: Message, turn: int, written: str) -> None:
    """Raise UnfitError unless all words are there; templates may change the space around them."""
    words = words_of(message)
    if words.strip() not in written and "".join(words.split()) not in "".join(written.split()):
        msg = (
            f"the chat template leaves out words of turn {turn + 1}, of the {message['role']}; "
            f"{OTHER}"
        )
        raise UnfitError(msg)
