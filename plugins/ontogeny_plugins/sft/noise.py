"""NEFTune: uniform noise on the embeddings of the input, while training."""
# B rows, T tokens, D width

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ontogeny.objective import Batch


def noisy_embeddings(model: nn.Module, batch: Batch, alpha: float) -> Tensor:
    """Return embeddings plus alpha / √(L·D) · U(-1, 1): Jain et al. 2023, algorithm 1; [B, T, D].

    L is the length of the text that a token stands in: of its document in a packed row, without
    padding. Drawn from torch's generator.
    """
    embed = cast("nn.Module", model.get_input_embeddings())  # type: ignore[operator]
    embedded_BTD = cast("Tensor", embed(batch["input_ids"]))
    area_BT = text_lengths(batch) * embedded_BTD.shape[-1]
    noise_BTD = torch.rand_like(embedded_BTD) * 2 - 1
    return embedded_BTD + noise_BTD * (alpha / area_BT.sqrt())[..., None]


def text_lengths(batch: Batch) -> Tensor:
    """Return for each token how many tokens its text has: [B, T] float32."""
    ids_BT = batch["input_ids"]
    if "document_ids" in batch:
        documents_BT = batch["document_ids"]
        count = int(documents_BT.shape[1])  # no row has more documents than tokens
        sizes_BN = torch.zeros(len(ids_BT), count, device=ids_BT.device)
        sizes_BN.scatter_add_(1, documents_BT, torch.ones_like(documents_BT, dtype=torch.float32))
        return sizes_BN.gather(1, documents_BT)
    if "attention_mask" in batch:
        return batch["attention_mask"].sum(1, keepdim=True).float().expand(ids_BT.shape)
    return torch.full(ids_BT.shape, float(ids_BT.shape[1]), device=ids_BT.device)
