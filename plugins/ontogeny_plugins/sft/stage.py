"""Supervised fine-tuning: a checkpoint learns to answer, in the form in which it will be asked."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, cast

from ontogeny.chat.conversation import UnfitError
from ontogeny.chat.template import ChatTemplate
from ontogeny.data.corpus import Corpus
from ontogeny.errors import ConfigError
from ontogeny.generation import Decoding, write
from ontogeny.models import longest_context
from ontogeny.stage import Sample
from ontogeny.tokenizers import named_tokenizer
from ontogeny.training_stage import TrainingStage
from ontogeny_plugins.sft.named_templates import give_template
from ontogeny_plugins.sft.prompts import prompt_ids, prompt_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Objective
    from ontogeny.stage import StageContext
    from ontogeny_plugins.sft import Instruction


class InstructionStage(TrainingStage):
    """Trains on prompts with completions, or conversations; its checkpoint keeps the template."""

    def __init__(self, config: Instruction) -> None:
        self.config = config

    def tokenizer(self, context: StageContext) -> PreTrainedTokenizerBase:
        """Return the tokenizer of the checkpoint with the chat template that was chosen."""
        tokenizer = named_tokenizer(context.config)
        if tokenizer is None:
            msg = (
                "model.source is not set; sft goes on from a checkpoint folder or Hub name "
                "(stage=pretraining begins with random weights)"
            )
            raise ConfigError(msg)
        told = give_template(tokenizer, self.config.chat_template)
        context.announce(f"chat template: {told}")
        return tokenizer

    def samples(self, bundle: Bundle, context: StageContext) -> list[Sample]:
        """Let the model answer the first held-out prompts, as a server would ask it."""
        options = self.config
        if not (options.samples and options.sample_tokens and bundle.model.can_generate()):
            return []
        prompts = list(islice(self._prompts(bundle, context), options.samples))
        decoding = Decoding(
            max_tokens=options.sample_tokens,
            batch_size=1,
            temperature=options.temperature,
            seed=context.config.seed,
        )
        written = write(bundle, [ids for _, ids in prompts], decoding)
        pairs = zip(prompts, written, strict=True)
        return [Sample(f"{shown}\n", answer.text) for (shown, _), answer in pairs]

    def _prompts(self, bundle: Bundle, context: StageContext) -> Iterator[tuple[str, list[int]]]:
        """Yield the held-out prompts that leave room for an answer, to be read and as tokens."""
        tokenizer, tokens = bundle.tokenizer, self.config.sample_tokens
        objective = cast("Objective", context.registry.build(context.config.objective))
        corpus = Corpus(context.config.data, objective.columns, context.store, context.announce)
        longest = longest_context(bundle.model)
        encoder = bool(bundle.model.config.is_encoder_decoder)
        room = sys.maxsize if longest is None else longest - (0 if encoder else tokens)
        template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        for name in corpus.names:
            for row in corpus.held_out(name):
                with suppress(UnfitError):  # a row of text, or a bad one that was left out
                    prompt = prompt_of(row, template)
                    ids = prompt_ids(prompt, tokenizer, encoder=encoder)
                    if 0 < len(ids) <= room:
                        yield prompt.shown, ids
