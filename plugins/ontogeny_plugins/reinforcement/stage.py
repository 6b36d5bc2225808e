"""Reinforcement: a checkpoint answers prompts, and learns from what its answers are worth."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, cast

from ontogeny.data.corpus import Corpus
from ontogeny.errors import ConfigError
from ontogeny.generation import Decoding, write
from ontogeny.models import longest_context
from ontogeny.stage import Sample
from ontogeny.tokenizers import named_tokenizer
from ontogeny.training_stage import TrainingStage
from ontogeny_plugins.reinforcement.prompts import prompt_tokens, with_prompt
from ontogeny_plugins.reinforcement.samples import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Objective, Row
    from ontogeny.stage import StageContext
    from ontogeny_plugins.reinforcement import Reinforcement


class ReinforcementStage(TrainingStage):
    """Trains on prompts; shows what the model answers afterwards."""

    def __init__(self, config: Reinforcement) -> None:
        self.config = config

    def tokenizer(self, context: StageContext) -> PreTrainedTokenizerBase:
        """Return the tokenizer of the checkpoint; raise ConfigError where there is none."""
        if not context.config.reward:
            known = ", ".join(sorted(context.registry.components["reward"]))
            msg = f"no reward is chosen: set 'reward=[...]' to one or several of {known}"
            raise ConfigError(msg)
        tokenizer = named_tokenizer(context.config)
        if tokenizer is None:
            msg = (
                "model.source is not set; reinforcement goes on from a checkpoint folder or Hub "
                "name, best one that stage=sft has made"
            )
            raise ConfigError(msg)
        if not tokenizer.chat_template:
            context.announce("data: the tokenizer has no chat template: rows are read as bare text")
        return tokenizer

    def samples(self, bundle: Bundle, context: StageContext) -> list[Sample]:
        """Let the model answer the first held-out prompts, as a server would ask it."""
        options = self.config
        if not (options.samples and options.sample_tokens):
            return []
        longest = longest_context(bundle.model)
        rows = list(islice(self._rows(context), options.samples))
        prompts = [(row, prompt_tokens(row, bundle.tokenizer)) for row in rows]
        asked = [
            (row, tokens)
            for row, tokens in prompts
            if longest is None or len(tokens) + options.sample_tokens <= longest
        ]
        decoding = Decoding(max_tokens=options.sample_tokens, batch_size=1)
        written = write(bundle, [tokens for _, tokens in asked], decoding)
        return [
            Sample(f"{shown(row)}\n", answer.text)
            for (row, _), answer in zip(asked, written, strict=True)
        ]

    def _rows(self, context: StageContext) -> Iterator[Row]:
        objective = cast("Objective", context.registry.build(context.config.objective))
        corpus = Corpus(context.config.data, objective.columns, context.store, context.announce)
        return (with_prompt(row) for name in corpus.names for row in corpus.held_out(name))
