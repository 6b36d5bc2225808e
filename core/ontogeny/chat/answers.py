"""The text of a row with an answer: through a chat template, or bare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.chat.conversation import UnfitError, conversation_of, require_bare
from ontogeny.chat.encoding import examples_of
from ontogeny.chat.rendering import Rendered, render
from ontogeny.chat.template import ChatTemplate
from ontogeny.errors import RowError
from ontogeny.objective import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Example, Row


def answer_examples(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    rendered: Callable[[Row, ChatTemplate | None], Rendered],
) -> Iterator[Example]:
    """Yield one example for each row, with the answers as labels, as `rendered` marks them.

    Raises RowError for a row that cannot be rendered, or of which no token is trained.
    """
    template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
    texts = []
    for index, row in enumerate(rows):
        try:
            texts.append(rendered(row, template))
        except UnfitError as error:
            raise RowError(index, str(error)) from error
    for index, example in enumerate(examples_of(texts, tokenizer)):
        if not (example["labels"] != IGNORED).any():
            raise RowError(index, "no token of it is trained")
        yield example


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
