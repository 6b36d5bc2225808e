"""Pre-training: tokenizer, model and text become a base model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.models import longest_context
from ontogeny.seeding import seed_everything
from ontogeny.stage import Sample
from ontogeny.tokenizers import named_tokenizer
from ontogeny.training_stage import TrainingStage
from ontogeny_plugins.pretraining.tokenizer import trained_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.stage import StageContext
    from ontogeny_plugins.pretraining import Pretraining


class PretrainingStage(TrainingStage):
    """Trains on raw text, with a tokenizer of its own when none is given."""

    def __init__(self, config: Pretraining) -> None:
        self.config = config

    def tokenizer(self, context: StageContext) -> PreTrainedTokenizerBase:
        """Return the named tokenizer, or one trained on the data."""
        return named_tokenizer(context.config) or trained_tokenizer(context)

    def samples(self, bundle: Bundle, context: StageContext) -> list[Sample]:
        """Let the model continue the prompts of `stage.prompts`."""
        if self.config.sample_tokens == 0:
            return []
        return [self._continue(bundle, prompt, context) for prompt in self.config.prompts]

    def _continue(self, bundle: Bundle, prompt: str, context: StageContext) -> Sample:
        model, tokenizer = bundle.model, bundle.tokenizer
        room = longest_context(model) or sys.maxsize
        start_1T = self._start(prompt, tokenizer, room).to(model.device)
        length = start_1T.shape[1]
        seed_everything(context.config.seed, "sample", prompt)
        hot = {"do_sample": True, "temperature": self.config.temperature}
        with torch.no_grad():
            ids_1T = model.generate(  # type: ignore[operator]
                start_1T,
                attention_mask=torch.ones_like(start_1T),
                max_new_tokens=min(self.config.sample_tokens, room - length),
                pad_token_id=tokenizer.pad_token_id or 0,
                use_cache=True,
                **(hot if self.config.temperature else {"do_sample": False}),
            )
        text = tokenizer.decode(ids_1T[0, length:], skip_special_tokens=True)
        return Sample(prompt, cast("str", text))

    def _start(self, prompt: str, tokenizer: PreTrainedTokenizerBase, room: int) -> torch.Tensor:
        """Return a prompt's last tokens, [1, T]; what begins a document where it has none."""
        ids = cast("list[int]", tokenizer(prompt, add_special_tokens=False)["input_ids"])
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        kept = max(1, room - self.config.sample_tokens)
        return torch.tensor([(ids or [first or 0])[-kept:]])
