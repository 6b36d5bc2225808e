"""Whether prompts find the texts that belong to them among those of all held-out rows."""
# N rows, B rows of a batch, D width

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ontogeny.data.collation import collate_tokens
from ontogeny.errors import DataError
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics
from ontogeny.intervals import mean_metric
from ontogeny_plugins.heads.texts import COLUMNS, embeddings, pair_of, token_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ontogeny.adapter import Bundle
    from ontogeny_plugins.heads import RetrievalMetrics


class RetrievalEvaluator(Evaluator):
    """Ranks the texts of all rows by their cosine with each prompt."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS

    def __init__(self, config: RetrievalMetrics) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise DataError without rows, or for rows that hold no texts."""
        if not any(data.rows.values()):
            msg = (
                "no held-out rows to evaluate on: set data.validation.path or "
                "data.validation.share, or evaluate nothing: 'evaluator=[]'"
            )
            raise DataError(msg)
        for name in data.rows:
            if pairs := data.each(name, pair_of):
                with torch.no_grad():
                    self._embed(bundle, pairs[0], data.options.max_length)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics over all sources, whose texts make one pool."""
        pairs = [pair for name in data.rows for pair in data.each(name, pair_of)]
        prompts_ND, texts_ND = (
            self._embed(bundle, [pair[side] for pair in pairs], data.options.max_length)
            for side in (0, 1)
        )
        rank_N = self._ranks(prompts_ND, texts_ND, [text for _, text, *_ in pairs])
        resamples = self.config.resamples
        return {
            "recall_at_1": mean_metric((rank_N < 1.5).astype(float), "1", resamples),
            "recall_at_10": mean_metric((rank_N < 10.5).astype(float), "1", resamples),
            "mean_reciprocal_rank": mean_metric(1 / rank_N, "1", resamples),
        }

    def _embed(self, bundle: Bundle, texts: Sequence[str], max_length: int) -> Tensor:
        """Return the embeddings of texts, [N, D]; texts of like length share a batch."""
        ids = [ids_T[:max_length] for ids_T in token_ids(texts, bundle.tokenizer)]
        order = sorted(range(len(ids)), key=lambda text: -len(ids[text]))
        device, parts = next(bundle.model.parameters()).device, []
        for begin in range(0, len(order), self.config.batch_size):
            chosen = order[begin : begin + self.config.batch_size]
            batch = collate_tokens([{"input_ids": ids[text]} for text in chosen])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            parts.append(embeddings(bundle.model, batch).cpu())
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def _ranks(self, prompts_ND: Tensor, texts_ND: Tensor, texts: Sequence[str]) -> np.ndarray:
        """Return the rank of each prompt's own text, from 1 on; ties count half, [N] float.

        The same text in another row is neither before nor behind.
        """
        number = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        text_N = torch.tensor([number[text] for text in texts])
        _, first = np.unique(text_N.numpy(), return_index=True)
        pool = torch.from_numpy(first)
        ranks = []
        for begin in range(0, len(prompts_ND), self.config.batch_size):
            rows = slice(begin, begin + self.config.batch_size)
            cosines = prompts_ND[rows] @ texts_ND[pool].T
            own_B1 = (prompts_ND[rows] * texts_ND[rows]).sum(-1, keepdim=True)
            is_other = text_N[pool] != text_N[rows, None]
            above = ((cosines > own_B1) & is_other).sum(-1)
            level = ((cosines == own_B1) & is_other).sum(-1)
            ranks.append(1 + above + level / 2)
        return torch.cat(ranks).double().numpy()
