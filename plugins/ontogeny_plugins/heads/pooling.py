"""What of a text's hidden states stands for the text."""
# B rows, T tokens, D width

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def pooled(pooling: str, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Return the first token (cls), the mean of all, or the last token of each row, [B, D].

    `mask_BT` is 0 on padding, which may stand on either side; none: there is no padding. Padding
    is never found by the id of a token: many tokenizers pad with their end-of-text token.
    """
    if mask_BT is None:
        mask_BT = torch.ones(hidden_BTD.shape[:2], dtype=torch.long, device=hidden_BTD.device)
    if pooling == "mean":
        weights_BT1 = mask_BT[..., None].to(hidden_BTD.dtype)
        return (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1)
    places_T = torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    order_T = places_T if pooling == "last" else places_T.flip(0)
    chosen_B = (mask_BT * order_T).argmax(1)
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), chosen_B]
