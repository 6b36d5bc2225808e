"""Rows as conversations: what stands in them, and which turns a model is to learn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ontogeny.objective import Row

Message = dict[str, object]

ROLES = ("system", "developer", "user", "assistant", "tool")


class UnfitError(Exception):
    """A row cannot be trained on; the message says why."""


@dataclass(frozen=True)
class Conversation:
    """Turns of a conversation, what its template is given beside them, and what is trained."""

    messages: Sequence[Message]
    trained: Sequence[int]  # indices of turns of the assistant
    tools: list[Message] | None = None  # JSON schemas
    arguments: Mapping[str, object] = field(default_factory=dict)  # more, such as enable_thinking

    @property
    def answers(self) -> list[int]:
        """The indices of all turns of the assistant."""
        roles = enumerate(message["role"] for message in self.messages)
        return [turn for turn, role in roles if role == "assistant"]


def conversation_of(row: Row, loss_on: str) -> Conversation:
    """Return the conversation of a row of `messages`, or of `prompt` and `completion`.

    Raises UnfitError for an unknown role, a conversation that does not end with an answer, and a
    trained answer without a word.
    """
    messages, first = _messages(row)
    _require_known_roles(messages)
    _require_last_answer(messages[-1])
    arguments = _object(row.get("chat_template_kwargs"), "chat_template_kwargs")
    whole = Conversation(messages, (), _tools(row.get("tools")), arguments)
    trained = [turn for turn in whole.answers if turn >= first]
    trained = trained[-1:] if loss_on == "last" else trained
    for turn in trained:
        what = f"turn {turn + 1}, of the assistant," if "messages" in row else "the completion"
        _require_content(messages[turn], what)
    return Conversation(messages, trained, whole.tools, arguments)


def require_bare(row: Row) -> None:
    """Raise UnfitError for a row of turns with roles, which bare text cannot show."""
    parts = (row.get(name) for name in ("prompt", "completion"))
    if "messages" in row or any(isinstance(part, list) for part in parts):
        msg = (
            "turns need a chat template, and the tokenizer has none; take one that has (stage=sft "
            "gives it one: stage.chat_template)"
        )
        raise UnfitError(msg)


def words_of(message: Message) -> str:
    """Return what a turn says."""
    return str(message["content"])


def calls_of(message: Message) -> list[Message]:
    """Return the functions that a turn calls, each with name and arguments."""
    calls = cast("list[Message]", message.get("tool_calls") or [])
    return [cast("Message", call.get("function", call)) for call in calls]


def _messages(row: Row) -> tuple[list[Message], int]:
    """Return the turns of a row, and the first one that may be trained."""
    if "messages" in row:
        return _turns(row["messages"], "user"), 0
    prompt = _turns(row["prompt"], "user")
    return [*prompt, *_turns(row["completion"], "assistant")], len(prompt)


def _turns(value: object, role: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return [_turn(message) for message in cast("list[Message]", value)]


def _turn(message: Message) -> Message:
    """Return a turn as templates expect it: without nulls, and with arguments as objects."""
    turn = {name: value for name, value in message.items() if value is not None}
    turn.setdefault("content", "")
    if calls := turn.get("tool_calls"):
        turn["tool_calls"] = [_call(call) for call in cast("list[Message]", calls)]
    return turn


def _call(call: Message) -> Message:
    """Read arguments that are JSON in a text, as OpenAI's interface gives them."""
    if isinstance(call.get("function"), dict):
        return {**call, "function": _call(cast("Message", call["function"]))}
    if isinstance(call.get("arguments"), str):
        return {**call, "arguments": _object(call["arguments"], "arguments of a tool call")}
    return call


def _tools(value: object) -> list[Message] | None:
    """Return the tools, which may be JSON in a text: tables have no column for their schemas."""
    tools = _parsed(value, "tools")
    if tools is not None and (
        not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools)
    ):
        msg = f"tools is {json.dumps(tools)[:80]}; expected a list of JSON schemas"
        raise UnfitError(msg)
    return tools or None


def _object(value: object, what: str) -> Message:
    """Return an object, or what a text says that is one."""
    found = _parsed(value, what)
    if found is not None and not isinstance(found, dict):
        raise UnfitError(f"{what}: {json.dumps(found)[:80]} is no object")
    return found or {}


def _parsed(value: object, what: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise UnfitError(f"{what}: {value[:80]!r} is no JSON ({error})") from error


def _require_known_roles(messages: Sequence[Message]) -> None:
    for turn, message in enumerate(messages):
        if message["role"] not in ROLES:
            msg = f"turn {turn + 1} has the role {message['role']!r}; expected {', '.join(ROLES)}"
            raise UnfitError(msg)


def _require_last_answer(message: Message) -> None:
    if message["role"] != "assistant":
        msg = (
            f"the conversation ends with a turn of the {message['role']}, which nothing answers; "
            f"expected one of the assistant"
        )
        raise UnfitError(msg)


def _require_content(message: Message, what: str) -> None:
    if not words_of(message).strip() and not calls_of(message):
        raise UnfitError(f"{what} is empty: no token of it can be trained")
