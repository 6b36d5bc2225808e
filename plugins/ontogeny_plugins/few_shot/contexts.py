"""Questions behind demonstrations, each with its own draw of them."""
# K demonstrations

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.choices import answer_index, choice_texts
from ontogeny.errors import DataError
from ontogeny.evaluator import saying_where
from ontogeny.seeding import derive
from ontogeny_plugins.few_shot import KEY

if TYPE_CHECKING:
    from ontogeny.objective import Row
    from ontogeny_plugins.few_shot import FewShot


@dataclass(frozen=True)
class Item:
    """A row as a question with its right answer."""

    question: str
    answer: str
    choices: tuple[str, ...]  # none: the answer is to be written
    index: int  # of the answer in the choices


def item_of(row: Row) -> Item:
    """Return a row with `question` or `prompt` and `answer` or `completion` as an item.

    Raises DataError where what stands there is not of the right kind.
    """
    with saying_where(row):
        return _item(row)


def _item(row: Row) -> Item:
    question = row.get("question", row.get("prompt"))
    answer = row.get("answer", row.get("completion"))
    if not isinstance(question, str):
        msg = f"{KEY}: the question is {question!r}; expected text"
        raise DataError(msg)
    if "choices" in row:
        index, choices = answer_index(row), choice_texts(row)
        return Item(question, choices[index], tuple(choices), index)
    if isinstance(answer, bool | list | dict) or not str(answer).strip():
        msg = f"{KEY}: the answer to {question!r} is {answer!r}; expected text or a number"
        raise DataError(msg)
    return Item(question, str(answer).strip(), (), 0)


def contexts_of(
    items: Sequence[Item], pools: Sequence[Sequence[Item]], options: FewShot
) -> list[str]:
    """Return for each item k demonstrations out of its pool, then its own question.

    What is drawn depends on the seed and on the place of the item. The item itself is never drawn,
    though it be in the pool. Raises DataError for a pool that is too small.
    """
    pairs = zip(items, pools, strict=True)
    return [_context(item, place, pool, options) for place, (item, pool) in enumerate(pairs)]


def _context(item: Item, place: int, pool: Sequence[Item], options: FewShot) -> str:
    generator = np.random.default_rng(derive(options.seed, "demonstrations", place))
    drawn: list[Item] = []
    for index in generator.permutation(len(pool)):
        if len(drawn) == options.k:
            break
        if pool[int(index)].question != item.question:
            drawn.append(pool[int(index)])
    if len(drawn) < options.k:
        msg = (
            f"{KEY}.k is {options.k}, but there are {len(drawn)} other rows to draw demonstrations "
            f"from; lower {KEY}.k, or name more rows in {KEY}.demonstrations"
        )
        raise DataError(msg)
    shown = [_shown(each.question, options) + options.before_answer + each.answer for each in drawn]
    return options.between.join([*shown, _shown(item.question, options)])


def _shown(question: str, options: FewShot) -> str:
    return options.question.replace("{question}", question)
