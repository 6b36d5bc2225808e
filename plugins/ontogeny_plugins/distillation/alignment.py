"""Two tokenizers on one text: where both have read the same, and which tokens both have."""
# T tokens of the student, U tokens of the teacher, K tokens that both have

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ontogeny.data.documents import special_ids
from ontogeny.errors import ConfigError
from ontogeny.objective import IGNORED

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Example

NOWHERE = -1  # a position of the student at which the teacher has not read the same
POSITIONS, TOKENS = "teacher_positions", "teacher_tokens"  # columns
_SPACES = ("Ġ", "▁")  # how tokenizers write the space before a word


@dataclass(frozen=True)
class Reading:
    """A text in the tokens of one tokenizer."""

    ids_T: np.ndarray  # with a token for the start and one for the end, as far as there are
    read_T: np.ndarray  # how many characters have been read behind each
    begins_T: np.ndarray  # where each begins


class Reader:
    """Reads texts with one tokenizer; raises ConfigError for one that does not tell places."""

    def __init__(self, key: str, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ConfigError(
                f"{key} is a {type(tokenizer).__name__}, which does not tell where in the text its "
                f"tokens stand; take one with a tokenizer.json"
            )
        self.tokenizer = tokenizer
        eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
        first = eos if bos is None else bos
        self.start = [] if first is None else [int(first)]
        self.end = [] if eos is None else [int(eos)]

    def read(self, text: str, *, ends: bool = True) -> Reading:
        """Return a text in tokens, with one for its end if it `ends` here."""
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids = cast("list[int]", encoded["input_ids"])
        offsets = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
        end = self.end if ends else []
        nothing, all_read = np.zeros(len(self.start), int), np.full(len(end), len(text))
        return Reading(
            np.array([*self.start, *ids, *end], np.int32),
            np.concatenate([nothing, offsets[:, 1], all_read]),
            np.concatenate([nothing, offsets[:, 0], all_read]),
        )

    def pieces(self, text: str, length: int) -> Iterator[str]:
        """Cut a text where a token begins, at so many tokens each at most."""
        begins_T = self.read(text, ends=False).begins_T[len(self.start) :]
        cuts = [0, *(int(place) for place in begins_T[length::length]), len(text)]
        for first, last in pairwise(cuts):
            if text[first:last]:
                yield text[first:last]


def aligned_example(student: Reading, teacher: Reading, learned_from: int) -> Example:
    """Return input_ids and labels of the student, and at which place the teacher has read the same.

    Labels begin with the first token at or behind character `learned_from`. Of several tokens that
    end at the same character, as the bytes of a letter, the last one has read it.
    """
    reads = {int(read): place for place, read in enumerate(teacher.read_T[:-1])}
    last = {int(read): place for place, read in enumerate(student.read_T[:-1])}
    positions_T = np.full(len(student.ids_T) - 1, NOWHERE, np.int32)
    for read, place in last.items():
        if read >= learned_from and read in reads:
            positions_T[place] = reads[read]
    labels_T = np.where(student.begins_T[1:] >= learned_from, student.ids_T[1:], IGNORED)
    return {
        "input_ids": student.ids_T[:-1],
        "labels": labels_T.astype(np.int32),
        POSITIONS: np.where(labels_T == IGNORED, NOWHERE, positions_T).astype(np.int32),
        TOKENS: teacher.ids_T[:-1],
    }


def shared_tokens(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> tuple[Tensor, Tensor]:
    """Return the ids of the tokens that are spelled alike in both, the end of a text included: K.

    Raises ConfigError where there are none.
    """
    own, theirs = _spelled(student), _spelled(teacher)
    pairs = [(own[word], theirs[word]) for word in own.keys() & theirs.keys()]
    if student.eos_token_id is not None and teacher.eos_token_id is not None:
        pairs.append((int(student.eos_token_id), int(teacher.eos_token_id)))
    if len(pairs) < 2:
        raise ConfigError(
            "objective.loss is 'aligned', but no token of the student's tokenizer is spelled as "
            "one of the teacher's; set objective.loss=uld"
        )
    ids_2K = torch.tensor(sorted(pairs)).T
    return ids_2K[0], ids_2K[1]


def _spelled(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    special = {*special_ids(tokenizer)}
    found = {}
    for word, number in tokenizer.get_vocab().items():
        if number not in special:
            for mark in _SPACES:
                word = word.replace(mark, " ")  # noqa: PLW2901
            found[word] = number
    return found
