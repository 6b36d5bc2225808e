"""What a model writes after a prompt: samples to look at."""
# T tokens

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.models import longest_context
from ontogeny.seeding import seed_everything
from ontogeny.stage import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle


@dataclass(frozen=True)
class Continuation:
    """How prompts are continued; the seed and the prompt decide what is drawn."""

    tokens: int  # at most, in each continuation
    temperature: float  # 0: the likeliest token each time
    seed: int

    def samples(self, bundle: Bundle, prompts: Sequence[str]) -> list[Sample]:
        """Let the model continue each prompt; none from a model that cannot generate."""
        if self.tokens == 0 or not bundle.model.can_generate():
            return []
        return [Sample(prompt, self._continue(bundle, prompt)) for prompt in prompts]

    def _continue(self, bundle: Bundle, prompt: str) -> str:
        model, tokenizer = bundle.model, bundle.tokenizer
        room = longest_context(model) or sys.maxsize
        start_1T = self._start(prompt, tokenizer, room).to(model.device)
        length = start_1T.shape[1]
        seed_everything(self.seed, "sample", prompt)
        hot = {"do_sample": True, "temperature": self.temperature}
        with torch.no_grad():
            ids_1T = model.generate(  # type: ignore[operator]
                start_1T,
                attention_mask=torch.ones_like(start_1T),
                max_new_tokens=min(self.tokens, room - length),
                pad_token_id=tokenizer.pad_token_id or 0,
                use_cache=True,
                **(hot if self.temperature else {"do_sample": False}),
            )
        return cast("str", tokenizer.decode(ids_1T[0, length:], skip_special_tokens=True))

    def _start(self, prompt: str, tokenizer: PreTrainedTokenizerBase, room: int) -> torch.Tensor:
        """Return a prompt's last tokens, [1, T]; what begins a document where it has none."""
        ids = cast("list[int]", tokenizer(prompt, add_special_tokens=False)["input_ids"])
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        kept = max(1, room - self.tokens)
        return torch.tensor([(ids or [first or 0])[-kept:]])
