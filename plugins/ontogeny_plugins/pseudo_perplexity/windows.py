"""Windows of documents, and their copies with the tokens masked that a model is asked for."""
# T tokens of a window, M tokens to predict in it

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ontogeny.data.documents import frame_of, ids_and_units
from ontogeny.objective import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Example


@dataclass(frozen=True)
class Window:
    """A part of a document with the tokenizer's special tokens around it."""

    document: int
    ids_T: np.ndarray
    words_T: np.ndarray  # 0: a special token; tokens of a word have the same number
    targets_M: np.ndarray  # positions to predict, rising

    def copies(self, mask_token: int, at_once: int) -> Iterator[Example]:
        """Yield copies in which `at_once` targets are masked, as far from each other as can be.

        The later tokens of their words are masked too. Labels are the targets alone.
        """
        count = -(-len(self.targets_M) // at_once)
        for first in range(count):
            targets = self.targets_M[first::count]
            ids_T, labels_T = self.ids_T.copy(), np.full_like(self.ids_T, IGNORED)
            labels_T[targets] = self.ids_T[targets]
            for target in targets:
                ids_T[target:][self.words_T[target:] == self.words_T[target]] = mask_token
            yield {"input_ids": ids_T, "labels": labels_T}


@dataclass(frozen=True)
class Cutting:
    """How texts are cut into windows, and how many of their tokens are drawn."""

    length: int  # tokens of a window, special ones included
    tokens: int | None  # of each document; none: all
    whole_words: bool  # else each token is a word of its own

    def windows(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[list[Window], np.ndarray]:
        """Return the windows that have targets, and the number of tokens of each text, [N]."""
        frame, generator = frame_of(tokenizer), np.random.default_rng(0)
        windows, counts = [], []
        found = ids_and_units(texts, tokenizer, words=self.whole_words)
        for document, (ids, words) in enumerate(found):
            counts.append(len(ids))
            chosen = generator.permutation(len(ids))[: self.tokens]
            for start in range(0, len(ids), room := self.length - len(frame)):
                inside = chosen[(chosen >= start) & (chosen < start + room)]
                part = slice(start, start + room)
                columns = frame.around(ids[part]), frame.zeros_around(words[part])
                targets = np.sort(inside) - start + len(frame.start)
                windows.append(Window(document, *columns, targets))
        return [each for each in windows if len(each.targets_M)], np.array(counts, np.float64)
