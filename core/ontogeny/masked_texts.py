"""Texts for masked language models: framed, cut into pieces, and masked anew at every look."""
# B rows, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from ontogeny.attention import is_causal
from ontogeny.data.collation import collate_tokens
from ontogeny.data.documents import frame_of, ids_and_units, special_ids
from ontogeny.errors import ConfigError
from ontogeny.masking_proofs import masking_proofs
from ontogeny.objective import Batch, Example, LongExamples, Objective, Row
from ontogeny.preflight import Proof, both_sides_proof, vocabulary_proof

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.data.documents import Frame
    from ontogeny.masking import Masking

# What a batch must know of the tokenizer: one number of each in every example.
VOCABULARY = ("mask_token", "first_regular", "end_of_regular")


class MaskedTexts(Objective):
    """An objective on masked texts; those longer than a row are split, and no token is lost."""

    columns: ClassVar[Sequence[Sequence[str]]] = (("text",),)
    long_examples: ClassVar[LongExamples] = "split"
    packs: ClassVar[bool] = True
    special_tokens: ClassVar[Mapping[str, str]] = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }

    def __init__(
        self, masking: Masking, *, rate: float, words: bool, piece_length: int | None
    ) -> None:
        self.masking = masking
        self.rate = rate
        self.words = words  # units are words, else tokens
        self.piece_length = piece_length  # tokens of a piece with its frame; none: whole texts

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Return [CLS] text [SEP], `units` as `ontogeny.masking` has them, and the vocabulary."""
        texts = [cast("str", row["text"]) for row in rows]
        vocabulary = {name: np.array(value) for name, value in _vocabulary(tokenizer).items()}
        frame, special = frame_of(tokenizer), special_ids(tokenizer)
        for ids_T, units_T in ids_and_units(texts, tokenizer, words=self.words):
            units_T[np.isin(ids_T, special)] = 0
            for piece in self._pieces(len(ids_T), frame):
                yield {
                    "input_ids": frame.around(ids_T[piece]),
                    "units": frame.zeros_around(units_T[piece]),
                    **vocabulary,
                }

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest row: input_ids and units [B, T]; vocabulary [3]."""
        tokens = [
            {name: column for name, column in example.items() if name not in VOCABULARY}
            for example in examples
        ]
        vocabulary = [int(examples[0][name].flat[0]) for name in VOCABULARY]
        return {**collate_tokens(tokens), "vocabulary": torch.tensor(vocabulary)}

    def masked(self, batch: Batch) -> Batch:
        """Return the batch with masked tokens and their labels, drawn from torch's generator."""
        ids_BT, labels_BT = self.masking.mask(
            batch["input_ids"], batch["units"], batch.get("document_ids"), batch["vocabulary"]
        )
        return {**batch, "input_ids": ids_BT, "labels": labels_BT}

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model looks both ways, that masks and the chunked loss are right."""
        yield both_sides_proof(model, batch, causal=is_causal(model))
        yield vocabulary_proof(model, batch)
        yield from masking_proofs(self.masked, batch, self.rate)

    def _pieces(self, length: int, frame: Frame) -> Iterator[slice]:
        """Cut a text into the pieces that get a frame; nothing remains of an empty one."""
        room = max(1, length)
        if self.piece_length is not None:
            room = self.piece_length - len(frame)
        if room < 1:
            msg = (
                f"objective.piece_length is {self.piece_length}; expected more than the "
                f"{len(frame)} special tokens around a piece (stages for masked language models "
                f"take data.max_length where it is not set)"
            )
            raise ConfigError(msg)
        yield from (slice(start, start + room) for start in range(0, length, room))


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the mask token and the longest range of ids without special tokens: random ones."""
    if tokenizer.mask_token_id is None:
        msg = (
            "the tokenizer has no mask token, which masked texts need: set tokenizer.source to "
            "one that has (as those of BERT, RoBERTa and ModernBERT), or pre-train without "
            "tokenizer.source and model.source, where one is trained with it"
        )
        raise ConfigError(msg)
    borders = np.array(sorted({-1, *special_ids(tokenizer), len(tokenizer)}))
    widest = int(np.diff(borders).argmax())
    first, end = int(borders[widest]) + 1, int(borders[widest + 1])
    return dict(zip(VOCABULARY, (tokenizer.mask_token_id, first, end), strict=True))
