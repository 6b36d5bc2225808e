"""Pre-training: tokenizer, model and text become a base model."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

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
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
        seed_everything(context.config.seed, "sample", prompt)
        hot = {"do_sample": True, "temperature": self.config.temperature}
        with torch.no_grad():
            ids = model.generate(  # type: ignore[operator]
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=self.config.sample_tokens,
                pad_token_id=tokenizer.pad_token_id or 0,
                use_cache=True,
                **(hot if self.config.temperature else {"do_sample": False}),
            )
        length = inputs["input_ids"].shape[1]
        text = tokenizer.decode(ids[0, length:], skip_special_tokens=True)
        return Sample(prompt, cast("str", text))
