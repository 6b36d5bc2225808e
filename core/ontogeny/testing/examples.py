"""The promises of `prepare` and `collate`: pure functions, of rows and of examples."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ontogeny.data.examples import TOKENS, Examples, ExampleWriter
from ontogeny.errors import DataError
from ontogeny.seeding import seed_everything
from ontogeny.testing.contract import ContractError, require
from ontogeny.testing.tensors import equal_batches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Batch, Example, Objective, Row

PREPARE = "let prepare depend on nothing but the rows, the tokenizer and the options"
COLLATE = "let collate depend on nothing but the examples; draw random numbers in loss"


def check_prepare(
    who: str,
    objective: Objective,
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> list[Example]:
    """Check that examples are a pure function of rows and fit for the store; return them."""

    def prepared(part: Sequence[Row]) -> list[Example]:
        return list(objective.prepare(part, tokenizer))

    given = deepcopy(list(rows))
    seed_everything("prepare", 1)
    examples = prepared(rows)
    require(list(rows) == given, who, "prepare changes the rows it is given", PREPARE)
    _check_columns(who, examples)
    seed_everything("prepare", 2)
    broken = "prepare makes other examples of the same rows the second time"
    require(_same(examples, prepared(rows)), who, broken, PREPARE)
    half = len(rows) // 2
    parts = prepared(rows[:half]) + prepared(rows[half:])
    broken = "prepare makes other examples of the rows in two parts than of all at once"
    require(_same(examples, parts), who, broken, "let it keep no state from row to row, in order")
    return _stored(who, examples, folder)


def check_collate(who: str, objective: Objective, examples: Sequence[Example]) -> Batch:
    """Check that a batch is a pure function of examples, in tensors of the CPU; return it."""
    given = deepcopy(list(examples))
    seed_everything("collate", 1)
    batch = objective.collate(given)
    broken = "collate modifies the examples, which are mapped from a file and read-only"
    require(_same(given, examples), who, broken, "copy what you change")
    _check_batch(who, batch)
    seed_everything("collate", 2)
    broken = "collate makes another batch of the same examples the second time"
    require(equal_batches(batch, objective.collate(given)), who, broken, COLLATE)
    return batch


def _check_columns(who: str, examples: Sequence[Example]) -> None:
    require(bool(examples), who, "prepare makes no example of the rows", "give rows=[...]")
    for number, example in enumerate(examples):
        for name, column in example.items():
            broken = f"column {name} of example {number} is {type(column).__name__}"
            is_array = isinstance(column, np.ndarray)
            require(is_array, who, broken, "expected a 1-D array of integers or floats")
        broken = f"example {number} has no {TOKENS}; its columns are {', '.join(example)}"
        mend = f"{TOKENS}, or several like chosen_{TOKENS}, say how long an example is"
        require(token_count(example) > 0, who, broken, mend)
        if TOKENS not in example:
            continue
        length = len(example.get("labels", example[TOKENS]))
        broken = f"example {number} has {length} labels for {len(example[TOKENS])} tokens"
        mend = "labels are aligned: labels[t] is what position t predicts, -100 for nothing"
        require(length == len(example[TOKENS]), who, broken, mend)


def _stored(who: str, examples: Sequence[Example], folder: Path) -> list[Example]:
    """Write examples as the core does, and return them as they are read."""
    folder.mkdir(parents=True)
    try:
        with ExampleWriter(folder) as writer:
            for example in examples:
                writer.add(example)
    except DataError as error:
        raise ContractError(f"{who}: examples cannot be stored: {error}") from error
    stored = Examples(folder)
    return [{name: column.copy() for name, column in example.items()} for example in stored]


def _check_batch(who: str, batch: Batch) -> None:
    mend = "return a dictionary of CPU tensors; the core moves them"
    for name, tensor in batch.items():
        kind = type(tensor).__name__
        require(isinstance(tensor, Tensor), who, f"collate returns a {kind} as {name}", mend)
        place = tensor.device.type
        require(place == "cpu", who, f"collate puts {name} on {place}", mend)


def token_count(example: Example) -> int:
    """Count the tokens of an example: of its `input_ids`, or of all columns called like that."""
    return sum(len(column) for name, column in example.items() if name.endswith(TOKENS))


def _same(left: Sequence[Example], right: Sequence[Example]) -> bool:
    return len(left) == len(right) and all(
        one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
        for one, other in zip(left, right, strict=True)
    )
