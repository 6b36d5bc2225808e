"""Prompts as a served model reads them, with the rows they come from."""
# B prompts, P tokens of the longest one, J bytes of the longest row

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ontogeny.chat.encoding import special_start
from ontogeny.errors import RowError
from ontogeny.objective import Batch, Example, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = (("prompt",), ("messages",))
NO_TEMPLATE = "turns need a chat template, and the tokenizer has none; set tokenizer.source"


@dataclass(frozen=True)
class Prompt:
    """What an answer is written to: the row, with a prompt, and its tokens."""

    row: Row
    tokens: list[int]


def prompt_examples(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterator[Example]:
    """Yield input_ids, [P], and the row as the bytes of its JSON, [J].

    Raises RowError for a row that leaves nothing to answer.
    """
    for index, given in enumerate(rows):
        row = with_prompt(given)
        try:
            tokens = prompt_tokens(row, tokenizer)
        except ValueError as error:
            raise RowError(index, str(error)) from error
        text = json.dumps(row, ensure_ascii=False, default=str).encode()
        yield {
            "input_ids": np.array(tokens, np.int32),
            "row": np.frombuffer(text, np.uint8).astype(np.int32),
        }


def with_prompt(row: Row) -> Row:
    """Return a row whose prompt is what stands before the last answer of its messages."""
    if "prompt" in row:
        return row
    turns = list(cast("Sequence[dict[str, object]]", row["messages"]))
    while turns and turns[-1].get("role") == "assistant":
        turns.pop()
    rest = {name: value for name, value in row.items() if name != "messages"}
    return {**rest, "prompt": turns}


def prompt_tokens(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a prompt, up to where the answer begins; raise ValueError without one."""
    prompt = row["prompt"]
    if tokenizer.chat_template:
        text, start = _rendered(row, tokenizer), []
    elif isinstance(prompt, str):
        text, start = prompt, special_start(tokenizer)
    else:
        raise ValueError(NO_TEMPLATE)
    encoded = tokenizer(text, add_special_tokens=False, verbose=False)
    tokens = [*start, *cast("list[int]", encoded["input_ids"])]
    if not tokens or not (prompt.strip() if isinstance(prompt, str) else prompt):
        raise ValueError("the prompt is empty: there is nothing to answer")
    return tokens


def _rendered(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    prompt = row["prompt"]
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    render = cast("Callable[..., str]", tokenizer.apply_chat_template)
    more = cast("dict[str, object]", row.get("chat_template_kwargs") or {})
    try:
        return render(
            turns, tools=row.get("tools"), tokenize=False, add_generation_prompt=True, **more
        )
    except Exception as error:  # each template refuses in its own way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"the chat template cannot render the prompt: {reason}") from error


def collate_prompts(examples: Sequence[Example]) -> Batch:
    """Return ids and rows, padded on the right, [B, P] and [B, J], with their lengths, [B]."""
    batch: Batch = {}
    for name, target in (("input_ids", "prompt_lengths"), ("row", "row_lengths")):
        columns = [torch.from_numpy(np.asarray(each[name]).astype(np.int64)) for each in examples]
        batch[name] = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True)
        batch[target] = torch.tensor([len(column) for column in columns])
    return batch


def prompts_of(batch: Batch) -> list[Prompt]:
    """Return the prompts of a batch."""
    names = ("input_ids", "prompt_lengths", "row", "row_lengths")
    ids, lengths, rows, sizes = (batch[name].tolist() for name in names)
    return [
        Prompt(json.loads(bytes(row[:size])), tokens[:length])
        for tokens, length, row, size in zip(ids, lengths, rows, sizes, strict=True)
    ]
