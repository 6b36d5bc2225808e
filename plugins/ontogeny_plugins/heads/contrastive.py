"""Embeddings of texts that belong together are near, those of all others far."""
# B rows, T tokens, D width

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from ontogeny.data.collation import collate_tokens
from ontogeny.errors import RowError
from ontogeny.objective import Batch, Example, Loss, Objective, Row
from ontogeny_plugins.heads.texts import COLUMNS, embeddings, pair_of, token_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.data.corpus import Corpus
    from ontogeny_plugins.heads import Contrastive

SIDES = ("anchor", "positive", "negative")


class ContrastiveObjective(Objective):
    """InfoNCE with the other rows of the batch, and rejected texts, as what does not belong."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS
    rows_are_independent: ClassVar[bool] = False

    def __init__(self, config: Contrastive) -> None:
        self.config = config
        self.max_length = 0

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Note how long a text may be."""
        self.max_length = corpus.data.max_length
        return {"max_length": self.max_length}

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Tokenise prompt, completion or chosen text, and rejected text where there is one."""
        texts = []
        for index, row in enumerate(rows):
            try:
                texts.append(pair_of(row))
            except ValueError as error:
                raise RowError(index, str(error)) from error
        for pair in texts:
            whole = token_ids(pair, tokenizer)
            named = zip(SIDES, whole, strict=False)
            example = {f"{side}_input_ids": ids_T[: self.max_length] for side, ids_T in named}
            is_cut = any(len(ids_T) > self.max_length for ids_T in whole)
            yield {**example, "truncated": np.array(is_cut, np.int32)}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad each side: anchor_input_ids [B, T] and so on; `same` [B, B], equal positives."""
        batch: Batch = {}
        for side in SIDES:
            name = f"{side}_input_ids"
            if name in examples[0]:
                part = collate_tokens([{"input_ids": example[name]} for example in examples])
                batch |= {f"{side}_{column}": tensor for column, tensor in part.items()}
        texts = [example["positive_input_ids"].tobytes() for example in examples]
        same = [[one == other for other in texts] for one in texts]
        return {**batch, "same": torch.tensor(same)}

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return -log of the share that each row's own text has of all, summed over rows."""
        anchor_BD, positive_BD = (embeddings(model, batch, side) for side in SIDES[:2])
        cosines_BB = anchor_BD @ positive_BD.T / self.config.temperature
        # The same text in another row is no wrong answer.
        row_B = torch.arange(len(cosines_BB), device=cosines_BB.device)
        is_other_BB = row_B[:, None] != row_B
        repeated_BB = batch["same"] & is_other_BB
        own_BB = cosines_BB.masked_fill(repeated_BB, torch.finfo(cosines_BB.dtype).min)
        scores = own_BB
        if "negative_input_ids" in batch:
            negative_BD = embeddings(model, batch, "negative")
            scores = torch.cat([own_BB, anchor_BD @ negative_BD.T / self.config.temperature], 1)
        total = F.cross_entropy(scores, row_B, reduction="sum")
        if self.config.symmetric:  # Radford et al. 2021, figure 3
            total = (total + F.cross_entropy(own_BB.T, row_B, reduction="sum")) / 2
        hits_B = scores.argmax(-1) == row_B
        return Loss(total, torch.ones_like(hits_B).sum(), {"accuracy": hits_B.sum()})
