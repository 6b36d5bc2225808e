"""The choice between texts that may go on from another one."""
# B rows, C choices of the row with most of them, M choices of all rows, T tokens

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch.nn import functional as F

from ontogeny.data.collation import collate_tokens
from ontogeny.errors import ConfigError, RowError
from ontogeny.objective import Batch, Example, Loss, Objective, Row
from ontogeny_plugins.classification.encoding import (
    PER_TOKEN,
    encode_texts,
    fitted,
    text_inputs,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.data.corpus import Corpus
    from ontogeny_plugins.classification import MultipleChoice

COLUMNS = (("context", "question", "choices", "label"), ("question", "choices", "label"))
FLAT = "choice_"  # before the name of a column: the tokens of all choices, end to end


class ChoiceOfTexts(Objective):
    """Cross-entropy over the scores of a row's choices, of which rows may have unequal numbers."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS

    def __init__(self, config: MultipleChoice) -> None:
        self.config = config
        self.max_length = 0

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Note how long a text may be: of the question with one choice."""
        self.max_length = corpus.data.max_length
        return {"max_length": self.max_length}

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Tokenise the question with each choice; `target` is the number of the right one."""
        for index, row in enumerate(rows):
            try:
                yield encode_choices(row, tokenizer, self.max_length)
            except ValueError as error:
                raise RowError(index, str(error)) from error

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest: input_ids [M, T], place [B, C] among them (-1: none), target [B]."""
        return collate_choices(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the cross-entropy summed over rows."""
        logits_BC = choice_logits(model, batch)
        total = F.cross_entropy(logits_BC, batch["target"], reduction="sum")
        hits_B = logits_BC.argmax(-1) == batch["target"]
        return Loss(total, torch.ones_like(hits_B).sum(), {"accuracy": hits_B.sum()})


def encode_choices(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Example:
    """Return the tokens of all choices of a row; raise ValueError for a row that does not fit."""
    choices, target = _choices(row), _target(row)
    question, context = (_text(row, name) for name in ("question", "context"))
    texts = [
        (question, choice) if context is None else (context, f"{question} {choice}")
        for choice in choices
    ]
    whole = list(encode_texts(cast("list[tuple[str, str]]", texts), tokenizer))
    cut = [fitted(example, max_length) for example in whole]
    return {
        **{f"{FLAT}{name}": np.concatenate([each[name] for each in cut]) for name in cut[0]},
        "lengths": np.array([len(each["input_ids"]) for each in cut], np.int32),
        "target": np.array(target, np.int32),
        "truncated": np.array(any(each["full_length"] > max_length for each in whole), np.int32),
    }


def collate_choices(examples: Sequence[Example]) -> Batch:
    """Return the batch of `ChoiceOfTexts.collate`."""
    names = [name for name in PER_TOKEN if f"{FLAT}{name}" in examples[0]]
    texts = []
    for example in examples:
        for start, stop in pairwise([0, *np.cumsum(example["lengths"])]):
            texts.append({name: example[f"{FLAT}{name}"][start:stop] for name in names})
    counts = [len(example["lengths"]) for example in examples]
    place_BC = np.full((len(counts), max(counts)), -1)
    for row, (start, stop) in enumerate(pairwise(np.cumsum([0, *counts]))):
        place_BC[row, : stop - start] = np.arange(start, stop)
    batch = collate_tokens(texts)
    batch["place"] = torch.from_numpy(place_BC)
    batch["target"] = torch.tensor([int(example["target"]) for example in examples])
    return batch


def choice_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the scores of the choices of each row, [B, C] float32, -inf or so where none is.

    transformers' classes take as many choices for every row: here all are of one row of M choices.
    """
    _require_choices(model)
    inputs = text_inputs(model, batch)
    inputs = {name: cast("Tensor", tensor)[None] for name, tensor in inputs.items()}
    logits_M = model(**inputs).logits[0].float()
    place_BC = batch["place"]
    nothing = torch.finfo(logits_M.dtype).min
    return cast("Tensor", logits_M[place_BC.clamp(min=0)].masked_fill(place_BC < 0, nothing))


def _require_choices(model: nn.Module) -> None:
    """Raise ConfigError for a model of another task, which would fail on rows of choices."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    name = type(inner).__name__
    if not name.endswith("MultipleChoice"):  # transformers' classes, and ours
        msg = f"{name} has no score for each choice: multiple_choice goes with head=multiple_choice"
        raise ConfigError(msg)


def _choices(row: Row) -> list[str]:
    choices = row["choices"]
    is_list = isinstance(choices, list) and all(isinstance(each, str) for each in choices)
    if not is_list or len(cast("list[str]", choices)) < 2:
        raise ValueError(f"choices is {repr(choices)[:60]}; expected a list of two texts or more")
    return cast("list[str]", choices)


def _target(row: Row) -> int:
    """Return the number of the right choice, which a label may also give as text."""
    label, choices = row["label"], _choices(row)
    if isinstance(label, str) and choices.count(label) == 1:
        return choices.index(label)
    number = int(label) if isinstance(label, str) and label.isdecimal() else label
    if isinstance(number, bool) or not isinstance(number, int) or number not in range(len(choices)):
        last = len(choices) - 1
        raise ValueError(
            f"label is {label!r}; expected 0 to {last}, the number of the right choice"
        )
    return number


def _text(row: Row, name: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is a {type(value).__name__}; expected text")
    return value
