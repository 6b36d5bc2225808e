"""Two tokenizers on one text: where both have read the same, and which tokens both have."""
# T tokens of the student, U tokens of the teacher, K tokens that both have

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ontogeny.chat.answers import answer_text
from ontogeny.chat.conversation import UnfitError, calls_of, conversation_of, words_of
from ontogeny.chat.encoding import tokens_of
from ontogeny.chat.rendering import Rendered
from ontogeny.chat.template import ChatTemplate
from ontogeny.data.documents import special_ids
from ontogeny.errors import ConfigError, RowError
from ontogeny.objective import IGNORED
from ontogeny.token_ids import end_of_turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ontogeny.chat.encoding import Tokens
    from ontogeny.objective import Example, Row

NOWHERE = -1  # a position of the student at which the teacher has not read the same
LONGEST_ANSWER = 2**32  # characters: places in several answers are told apart as one number
POSITIONS, TOKENS = "teacher_positions", "teacher_tokens"  # columns
_SPACES = ("Ġ", "▁")  # how tokenizers write the space before a word


@dataclass(frozen=True)
class Reading:
    """A text in the tokens of one tokenizer."""

    ids_T: np.ndarray  # with a token for the start and one for the end, as far as there are
    # what has been read behind each, as a number that is the same for both tokenizers
    read_T: np.ndarray
    learned_T: np.ndarray  # whether it is to be predicted


class Reader:
    """Reads texts with one tokenizer; raises ConfigError for one that does not tell places."""

    def __init__(self, key: str, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ConfigError(
                f"{key} is a {type(tokenizer).__name__}, which does not tell where in the text its "
                f"tokens stand; take one with a tokenizer.json"
            )
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
        first = eos if bos is None else bos
        self.start = [] if first is None else [int(first)]
        self.end = [] if eos is None else [int(eos)]

    def read(self, text: str, *, ends: bool = True) -> Reading:
        """Return a text in tokens, with one for its end if it `ends` here."""
        ids, offsets = self._encoded(text)
        end = self.end if ends else []
        ids_T = np.array([*self.start, *ids, *end], np.int32)
        nothing, all_read = np.zeros(len(self.start), int), np.full(len(end), len(text))
        read_T = np.concatenate([nothing, offsets[:, 1], all_read])
        return Reading(ids_T, read_T, np.ones(len(ids_T), bool))

    def answers(self, rows: Sequence[Row], whose: str = "") -> Iterator[tuple[Rendered, Tokens]]:
        """Yield rows as text in this tokenizer's own chat template, and as tokens.

        Raises RowError, which says `whose` template it is, for a row that cannot be rendered.
        """
        texts = []
        for index, row in enumerate(rows):
            try:
                texts.append(answer_or_text(row, self.template))
            except UnfitError as error:
                raise RowError(index, f"{whose}{error}") from error
        yield from zip(texts, tokens_of(texts, self.tokenizer), strict=True)

    def pieces(self, text: str, length: int) -> Iterator[str]:
        """Cut a text where a token begins, at so many tokens each at most."""
        begins_T = self._encoded(text)[1][:, 0]
        cuts = [0, *(int(place) for place in begins_T[length::length]), len(text)]
        for first, last in pairwise(cuts):
            if text[first:last]:
                yield text[first:last]

    def _encoded(self, text: str) -> tuple[list[int], np.ndarray]:
        """Return the ids of a text and where each begins and stops: [T, 2]."""
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        offsets = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
        return cast("list[int]", encoded["input_ids"]), offsets


def answer_or_text(row: Row, template: ChatTemplate | None) -> Rendered:
    """Return the text of a row with its answers marked; a text is an answer as a whole."""
    if "messages" in row or "prompt" in row:
        return answer_text(row, template)
    text = str(row["text"])
    return Rendered(text, [(0, len(text))], is_bare=True)


def answer_readings(
    row: Row, student: tuple[Rendered, Tokens], teacher: tuple[Rendered, Tokens]
) -> tuple[Reading, Reading]:
    """Return a row as both read it, each in its own chat template.

    They meet within answers alone: where both have read as many characters of the same one.
    """
    shared = _shared_parts(_answers(row), student[0], teacher[0])
    readings = []
    for side, (_, tokens) in enumerate((student, teacher)):
        read_T = np.full(len(tokens.ids_T), NOWHERE, np.int64)
        for number, (*places, length) in enumerate(shared):
            behind_T = tokens.stops_T - places[side]
            within_T = (behind_T >= 0) & (behind_T <= length)
            read_T[within_T] = number * LONGEST_ANSWER + behind_T[within_T]
        readings.append(Reading(tokens.ids_T.astype(np.int32), read_T, tokens.trained_T))
    return readings[0], readings[1]


def _answers(row: Row) -> list[str | None]:
    """Return the words of each trained answer; None for one that calls tools.

    Each template writes calls in its own way: what one says of them is of no use to the other.
    """
    if "messages" not in row and "prompt" not in row:
        return [str(row["text"])]
    conversation = conversation_of(row, "assistant")
    turns = [conversation.messages[turn] for turn in conversation.trained]
    return [None if calls_of(turn) else words_of(turn).strip() for turn in turns]


def _shared_parts(
    answers: Sequence[str | None], student: Rendered, teacher: Rendered
) -> list[tuple[int, int, int]]:
    """Return where the part of each answer that is the same in both texts begins, and its length.

    The length is below 0 where there is none.
    """
    return [
        _shared_part(words, (student.text, *own), (teacher.text, *their))
        for words, own, their in zip(answers, student.spans, teacher.spans, strict=True)
    ]


def _shared_part(
    words: str | None, student: tuple[str, int, int], teacher: tuple[str, int, int]
) -> tuple[int, int, int]:
    sides = (student, teacher)
    places = [-1 if words is None else text.find(words, *span) for text, *span in sides]
    if min(places) < 0:
        return 0, 0, NOWHERE
    before, behind = (
        [text[begin:place] for (text, begin, _), place in zip(sides, places, strict=True)],
        [text[place:stop] for (text, _, stop), place in zip(sides, places, strict=True)],
    )
    back = _same_start(*(part[::-1] for part in before))
    return places[0] - back, places[1] - back, back + _same_start(*behind)


def _same_start(first: str, second: str) -> int:
    """Return how many characters two texts begin with that are the same."""
    pairs = enumerate(zip(first, second, strict=False))
    shorter = min(len(first), len(second))
    return next((place for place, (one, other) in pairs if one != other), shorter)


def aligned_example(student: Reading, teacher: Reading) -> Example:
    """Return input_ids and labels of the student, and at which place the teacher has read the same.

    Of several tokens that end at the same character, as the bytes of a letter, the last one has
    read it.
    """
    reads = {int(read): place for place, read in enumerate(teacher.read_T[:-1])}
    last = {int(read): place for place, read in enumerate(student.read_T[:-1])}
    positions_T = np.full(len(student.ids_T) - 1, NOWHERE, np.int32)
    for read, place in last.items():
        if read >= 0 and read in reads:
            positions_T[place] = reads[read]
    learned_T = student.learned_T[1:]
    return {
        "input_ids": student.ids_T[:-1],
        "labels": np.where(learned_T, student.ids_T[1:], IGNORED).astype(np.int32),
        POSITIONS: np.where(learned_T, positions_T, NOWHERE).astype(np.int32),
        TOKENS: teacher.ids_T[:-1],
    }


def shared_tokens(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, *, turns: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the ids of the tokens that are spelled alike in both, the end of a text included: K.

    With `turns` what ends a turn of the chat template comes first: where one tokenizer has two
    tokens for both ends, and the other one, that one stands for the end of a turn. Raises
    ConfigError where there are none.
    """
    own, theirs = _spelled(student), _spelled(teacher)
    pairs = [(own[word], theirs[word]) for word in own.keys() & theirs.keys()]
    ends = [(student.eos_token_id, teacher.eos_token_id)]
    if turns:
        ends.insert(0, (_end(student), _end(teacher)))
    for end in ends:
        known = [{pair[side] for pair in pairs} for side in (0, 1)]
        if None not in end and end[0] not in known[0] and end[1] not in known[1]:
            pairs.append((int(end[0]), int(end[1])))
    if len(pairs) < 2:
        raise ConfigError(
            "objective.loss is 'aligned', but no token of the student's tokenizer is spelled as "
            "one of the teacher's; set objective.loss=uld"
        )
    ids_2K = torch.tensor(sorted(pairs)).T
    return ids_2K[0], ids_2K[1]


def _end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return what ends an answer."""
    end = end_of_turn(tokenizer)
    return tokenizer.eos_token_id if end is None else end


def _spelled(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    special = {*special_ids(tokenizer)}
    found = {}
    for word, number in tokenizer.get_vocab().items():
        if number not in special:
            for mark in _SPACES:
                word = word.replace(mark, " ")  # noqa: PLW2901
            found[word] = number
    return found
