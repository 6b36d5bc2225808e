"""What masks must be, measured on the batch of the preflight."""
# B rows, T tokens, S draws

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ontogeny.objective import IGNORED
from ontogeny.preflight import Proof
from ontogeny.seeding import seed_everything

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ontogeny.objective import Batch

DRAWS = 64
STANDARD_ERRORS = 6.0


def masking_proofs(mask: Callable[[Batch], Batch], batch: Batch, rate: float) -> Iterator[Proof]:
    """Mask the batch many times: never a special token, and the share of others that was asked."""
    maskable_BT = batch["units"] > 0
    shares, wrong = [], 0
    for draw in range(DRAWS):
        seed_everything("preflight", "masks", draw)
        masked_BT = mask(batch)["labels"] != IGNORED
        shares.append(float(masked_BT[maskable_BT].double().mean()))
        wrong += int((masked_BT & ~maskable_BT).sum())
    kept = f"{wrong} of {int((~maskable_BT).sum())} in {DRAWS} draws"
    yield Proof("no special token is masked", wrong == 0, kept)
    name = "the masked share is objective.rate"
    if not maskable_BT.any():
        yield Proof(name, None, "nothing here can be masked")
        return
    shares_S = torch.tensor(shares, dtype=torch.float64)
    error = float(shares_S.std()) / DRAWS**0.5
    share = float(shares_S.mean())
    evidence = f"{share:.2%} of {int(maskable_BT.sum())} tokens, ±{error:.2%}"
    holds = abs(share - rate) <= STANDARD_ERRORS * error + 1e-6
    yield Proof(name, holds, evidence)
