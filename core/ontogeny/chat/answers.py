"""The text of a row with an answer: through a chat template, or bare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.chat.conversation import conversation_of, require_bare
from ontogeny.chat.rendering import Rendered, render

if TYPE_CHECKING:
    from ontogeny.chat.template import ChatTemplate
    from ontogeny.objective import Row


def answer_text(row: Row, template: ChatTemplate | None, loss_on: str = "assistant") -> Rendered:
    """Return the text of a row of messages, or of prompt and completion, with its answers marked.

    Without a template it is bare text, one after the other. `loss_on` as in `conversation_of`;
    raises UnfitError for a row that cannot be read so.
    """
    conversation = conversation_of(row, loss_on)
    if template is not None:
        return render(conversation, template)
    require_bare(row)
    prompt, text = str(row["prompt"]), f"{row['prompt']}{row['completion']}"
    return Rendered(text, [(len(prompt), len(text))], is_bare=True)
