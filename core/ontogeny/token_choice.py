"""How the next token is drawn, and by which texts a continuation ends."""
# B prompts of a batch, N new tokens, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from ontogeny.seeding import derive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def random_numbers(seed: int, indices: Sequence[int], tokens: int) -> Tensor:
    """Return a number in [0, 1) for every token, from a seed of each prompt's own: BN."""
    rows = []
    for index in indices:
        generator = torch.Generator().manual_seed(derive(seed, "write", index))
        rows.append(torch.rand(tokens, generator=generator))
    return torch.stack(rows)


class Draw(LogitsProcessor):
    """Draws a token by the inverse of the cumulative distribution, and leaves no other."""

    def __init__(self, uniform_BN: Tensor, temperature: float, start: int) -> None:
        self.uniform_BN = uniform_BN
        self.temperature = temperature
        self.start = start
        self.drawn: list[Tensor] = []  # log p of each step's tokens, [B]

    def log_probs_BN(self) -> Tensor:  # noqa: N802  a tensor carries its shape
        """Return log p of all tokens that were drawn; of a row that has ended, of no token."""
        return torch.stack(self.drawn, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return logits in which the token drawn is the only one possible: BV."""
        step = input_ids.shape[1] - self.start
        uniform_B1 = self.uniform_BN[:, step : step + 1].to(scores.device)
        probs_BV = (scores.float() / self.temperature).softmax(-1)
        cumulative_BV = probs_BV.cumsum(-1)
        sought_B1 = uniform_B1 * cumulative_BV[:, -1:]
        drawn_B1 = torch.searchsorted(cumulative_BV, sought_B1, right=True)
        drawn_B1 = drawn_B1.clamp(max=scores.shape[-1] - 1)
        self.drawn.append(probs_BV.gather(1, drawn_B1).squeeze(1).log())
        return torch.full_like(scores, float("-inf")).scatter(1, drawn_B1, 0.0)


class StopTexts(StoppingCriteria):
    """Ends a continuation as soon as it holds one of some texts."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], start: int
    ) -> None:
        self.tokenizer = tokenizer
        self.stops = stops
        self.start = start

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        """Say of each row whether it is done: B."""
        del scores
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        done = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(done, device=input_ids.device)
