"""Rows with two answers as tokens: one prompt, and two branches that go on from it.

What both texts begin with is held once. Its last token, from which the first token of an answer is
predicted, begins both branches: each position then predicts one token, and a row is cut, packed and
scored like any other.
"""
# T tokens of a row

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from ontogeny.chat.answers import answer_text
from ontogeny.chat.conversation import UnfitError
from ontogeny.chat.encoding import examples_of
from ontogeny.chat.template import ChatTemplate
from ontogeny.errors import RowError
from ontogeny.objective import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.chat.rendering import Rendered
    from ontogeny.objective import Example, Row

CHOSEN, REJECTED = 1, 2  # branches; 0 is what they share
SIDES = ("chosen", "rejected")
COLUMNS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, each with all that stands before it: input_ids and labels."""

    chosen: Example
    rejected: Example

    def branched(self) -> Example:
        """Return one row: input_ids, labels and branch_ids, [T]."""
        shared = self._shared()
        tails = [
            {name: column[shared:] for name, column in side.items()}
            for side in (self.chosen, self.rejected)
        ]
        head = {name: column[:shared] for name, column in self.chosen.items()}
        lengths = [shared, *(len(tail["input_ids"]) for tail in tails)]
        row = {name: np.concatenate([part[name] for part in (head, *tails)]) for name in head}
        return {**row, "branch_ids": np.repeat(np.array([0, CHOSEN, REJECTED], np.int32), lengths)}

    def _shared(self) -> int:
        """Count the tokens that both begin with and that predict nothing."""
        sides = (self.chosen, self.rejected)
        first = min(int((side["labels"] != IGNORED).argmax()) for side in sides)
        ids = [side["input_ids"][:first] for side in sides]
        length = min(map(len, ids))
        differs = np.flatnonzero(ids[0][:length] != ids[1][:length])
        return int(differs[0]) if len(differs) else length


def apart(example: Example) -> list[Example]:
    """Return both answers of a branched row in rows of their own, each after its prompt."""
    branch_T = example["branch_ids"]
    sides = [(branch_T == 0) | (branch_T == branch) for branch in (CHOSEN, REJECTED)]
    names = ("input_ids", "labels")
    return [{name: example[name][seen_T] for name in names} for seen_T in sides]


def pairs_of(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterator[Pair]:
    """Yield the pair of each row of prompt, chosen and rejected, or of chosen and rejected alone.

    With a chat template a prompt is a turn of the user and answers are the assistant's; without one
    they are bare text. Raises RowError for a row that cannot be used.
    """
    template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
    texts: list[Rendered] = []
    for index, row in enumerate(rows):
        try:
            texts += _rendered(row, template)
        except UnfitError as error:
            raise RowError(index, str(error)) from error
    examples = examples_of(texts, tokenizer)
    for index, pair in enumerate(zip(examples, examples, strict=True)):
        for side, example in zip(SIDES, pair, strict=True):
            if not (example["labels"] != IGNORED).any():
                raise RowError(index, f"no token of {side} can be scored")
        if _are_equal(*pair):
            raise RowError(index, "chosen and rejected are the same to the tokenizer")
        yield Pair(*pair)


def _rendered(row: Row, template: ChatTemplate | None) -> list[Rendered]:
    """Return the text of both sides, each with its answer marked."""
    row = _with_prompt(row)
    if row["chosen"] == row["rejected"]:
        raise UnfitError("chosen and rejected are the same: nothing is preferred")
    return [_side(row, side, template) for side in SIDES]


def _side(row: Row, side: str, template: ChatTemplate | None) -> Rendered:
    own = {name: value for name, value in row.items() if name not in SIDES}
    own["completion"] = row[side]
    try:
        return answer_text(own, template)
    except UnfitError as error:
        raise UnfitError(f"{side}: {str(error).replace('the completion', 'the answer')}") from error


def _with_prompt(row: Row) -> Row:
    """Return a row whose prompt is what both sides begin with, where it has none."""
    if "prompt" in row:
        return row
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        shared = _common(chosen, rejected)
        cut = chosen.rfind(" ", 0, shared + 1) if shared < len(chosen) else shared
        cut = max(cut, 0)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        cut = _common(chosen, rejected)
        while cut and cast("dict[str, object]", chosen[cut - 1]).get("role") == "assistant":
            cut -= 1
    else:
        raise UnfitError("one of chosen and rejected is text, the other a conversation")
    if not cut:
        raise UnfitError("there is no prompt, and chosen and rejected do not begin alike")
    return {**row, "prompt": chosen[:cut], "chosen": chosen[cut:], "rejected": rejected[cut:]}


def _common(left: Sequence[object], right: Sequence[object]) -> int:
    """Count the items that two sequences begin with."""
    pairs = enumerate(zip(left, right, strict=False))
    return next(
        (place for place, (one, other) in pairs if one != other), min(len(left), len(right))
    )


def _are_equal(left: Example, right: Example) -> bool:
    return np.array_equal(left["input_ids"], right["input_ids"]) and np.array_equal(
        left["labels"], right["labels"]
    )
