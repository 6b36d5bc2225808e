"""The answers of a step, and their tokens in three forms: flat, by answer, and packed into rows."""
# A answers, T tokens of the longest answer, M tokens of all answers, N tokens of a batch

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ontogeny.data.collation import collate_tokens, pad_row
from ontogeny.data.packing import best_fit_bins, pack
from ontogeny.objective import IGNORED, Batch, Example
from ontogeny.reward import Completion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ontogeny.data.packing import Bins
    from ontogeny.generation import Written
    from ontogeny_plugins.reinforcement.prompts import Prompt

# A token of a row costs its layers, and attention to the row: as much as the layers where a row has
# so many tokens (measured on a CPU at width 384; more at larger widths).
EQUAL_COST = 1000
LONGEST_ROW, WIDTHS = 4.0, 32  # times the longest example; row lengths that are tried


class Answers:
    """What was written to some prompts, `samples` answers to each, those of a prompt together."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        written: Sequence[Written],
        device: torch.device,
    ) -> None:
        self.prompts = prompts
        self.samples = samples
        self.written = written
        self.batches: list[Batch] = []  # of all answers, once they are made
        lengths = np.array([len(answer.tokens) for answer in written])
        self.starts = np.cumsum(lengths) - lengths  # of each answer in the flat form
        self.lengths_A = torch.from_numpy(lengths).to(device)
        self.ended_A = torch.tensor([answer.ended for answer in written], device=device)
        self.mask_AT = torch.arange(int(lengths.max()), device=device) < self.lengths_A[:, None]
        answers_A = torch.arange(len(written), device=device)
        self.owners_M = answers_A.repeat_interleave(self.lengths_A)

    def __len__(self) -> int:
        return len(self.written)

    @property
    def completions(self) -> list[Completion]:
        """What rewards are given."""
        return [
            Completion(prompt.row, prompt.tokens, answer.text, answer.tokens, answer.ended)
            for prompt, answer in zip(self._prompt_of_each(), self.written, strict=True)
        ]

    def by_answer(self, flat_M: Tensor) -> Tensor:
        """Return values of tokens as [A, T]; 0 behind the end of an answer."""
        found_AT = flat_M.new_zeros(self.mask_AT.shape)
        return found_AT.masked_scatter(self.mask_AT, flat_M)

    def flat(self, values_AT: Tensor) -> Tensor:
        """Return values [A, T] of the tokens alone, [M]."""
        return values_AT[self.mask_AT]

    def sums(self, flat_M: Tensor) -> Tensor:
        """Return the sum over the tokens of each answer, [A]."""
        return flat_M.new_zeros(len(self)).index_add(0, self.owners_M, flat_M)

    def examples(self, groups: Sequence[int], capacity: int, *, share: bool) -> list[Example]:
        """Return the answers to some prompts as rows: input_ids, labels, places and branch_ids.

        With `share`, answers go on from one copy of their prompt, as branches, as many as fit into
        `capacity` tokens; its last token begins each of them. `places` are those in the flat form.
        """
        found = []
        for group in groups:
            members = range(group * self.samples, (group + 1) * self.samples)
            parts = self._parts(members, capacity) if share else [(member,) for member in members]
            found += [self._example(group, part, share=share) for part in parts]
        return found

    def _parts(self, members: Sequence[int], capacity: int) -> Iterator[tuple[int, ...]]:
        """Yield answers to one prompt that fit into a row together."""
        prompt = len(self.prompts[members[0] // self.samples].tokens)
        part: list[int] = []
        used = prompt
        for member in members:
            length = len(self.written[member].tokens)
            if part and used + length > capacity:
                yield tuple(part)
                part, used = [], prompt
            part.append(member)
            used += length
        yield tuple(part)

    def _example(self, group: int, members: Sequence[int], *, share: bool) -> Example:
        prompt = self.prompts[group].tokens
        ids, labels = [np.array(prompt[:-1])], [np.full(len(prompt) - 1, IGNORED)]
        places, branches = [np.zeros(len(prompt) - 1)], [np.zeros(len(prompt) - 1)]
        for branch, member in enumerate(members, start=1):
            tokens = self.written[member].tokens
            ids.append(np.array([prompt[-1], *tokens[:-1]]))
            labels.append(np.array(tokens))
            places.append(self.starts[member] + np.arange(len(tokens)))
            branches.append(np.full(len(tokens), branch))
        columns = {"input_ids": ids, "labels": labels, "places": places}
        if share:
            columns["branch_ids"] = branches
        return {name: np.concatenate(parts).astype(np.int32) for name, parts in columns.items()}

    def _prompt_of_each(self) -> list[Prompt]:
        return [prompt for prompt in self.prompts for _ in range(self.samples)]


def microbatches(examples: Sequence[Example], tokens: int, *, packs: bool) -> Iterator[Batch]:
    """Yield batches of about so many tokens at most, of packed rows or of one example each.

    A longer example has a batch of its own.
    """
    lengths = np.array([len(example["input_ids"]) for example in examples])
    rows = list(examples)
    if packs:
        bins = _cheapest_bins(lengths, tokens)
        rows = [pack([examples[int(index)] for index in each]) for each in bins]
    rows.sort(key=lambda row: -len(row["input_ids"]))
    for taken in _slices(np.array([len(row["input_ids"]) for row in rows]), tokens):
        longest, part = len(rows[taken.start]["input_ids"]), rows[taken]
        yield collate_tokens([pad_row(row, longest) for row in part] if packs else part)


def _slices(lengths: NDArray[np.int64], tokens: int) -> Iterator[slice]:
    """Yield which rows, the longest first, share a batch when all are padded to its first."""
    begin = 0
    while begin < len(lengths):
        part = slice(begin, begin + max(1, tokens // int(lengths[begin])))
        yield part
        begin = part.stop


def _cheapest_bins(lengths: NDArray[np.int64], tokens: int) -> Bins:
    """Return which examples share a row, for rows of the length at which a pass costs least.

    Short rows leave gaps that nothing fits into, and long ones cost attention.
    """
    longest = int(lengths.max())
    widest = max(longest, min(tokens, int(LONGEST_ROW * longest), int(lengths.sum())))
    capacities = np.geomspace(longest, widest, WIDTHS).round().astype(int)
    tried = [best_fit_bins(lengths, capacity) for capacity in np.unique(capacities).tolist()]
    return min(tried, key=lambda bins: _cost(lengths, bins, tokens))


def _cost(lengths: NDArray[np.int64], bins: Bins, tokens: int) -> float:
    """Return what a pass over packed rows costs, in tokens without attention."""
    filled = np.sort([lengths[each].sum() for each in bins])[::-1]
    parts = [filled[part] for part in _slices(filled, tokens)]
    return float(sum(len(part) * part[0] * (1 + part[0] / EQUAL_COST) for part in parts))


def with_columns(batch: Batch, flat: Mapping[str, Tensor]) -> Batch:
    """Give a batch the values of its labelled tokens, [N] each, in the order in which they stand.

    `places` becomes [N], too.
    """
    places_N = batch["places"][batch["labels"] != IGNORED]
    return {**batch, "places": places_N, **{name: all_M[places_N] for name, all_M in flat.items()}}
