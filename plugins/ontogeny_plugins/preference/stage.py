"""Preference optimisation: a checkpoint learns which of two answers people prefer."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, cast

from ontogeny.data.corpus import Corpus
from ontogeny.errors import ConfigError
from ontogeny.generation import Decoding, write
from ontogeny.models import longest_context
from ontogeny.prompts import prompts_of
from ontogeny.stage import Sample
from ontogeny.tokenizers import named_tokenizer
from ontogeny.training_stage import TrainingStage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Objective, Row
    from ontogeny.stage import StageContext
    from ontogeny_plugins.preference import Preference


class PreferenceStage(TrainingStage):
    """Trains on pairs, or on answers with labels; shows what the model answers afterwards."""

    def __init__(self, config: Preference) -> None:
        self.config = config

    def tokenizer(self, context: StageContext) -> PreTrainedTokenizerBase:
        """Return the tokenizer of the checkpoint; raise ConfigError where there is none."""
        tokenizer = named_tokenizer(context.config)
        if tokenizer is None:
            msg = (
                "model.source is not set; preference goes on from a checkpoint folder or Hub name, "
                "best one that stage=sft has made"
            )
            raise ConfigError(msg)
        if not tokenizer.chat_template:
            context.announce("data: the tokenizer has no chat template: rows are read as bare text")
        return tokenizer

    def samples(self, bundle: Bundle, context: StageContext) -> list[Sample]:
        """Let the model answer the first held-out prompts, as a server would ask it."""
        options = self.config
        if not (options.samples and options.sample_tokens and bundle.model.can_generate()):
            return []
        rows = list(islice(self._rows(context), options.samples))
        decoding = Decoding(max_tokens=options.sample_tokens, batch_size=1)
        longest = longest_context(bundle.model)
        fits = [
            (row, prompt.tokens)
            for row, prompt in zip(rows, prompts_of(bundle, rows, "auto"), strict=True)
            if longest is None or len(prompt.tokens) + options.sample_tokens <= longest
        ]
        written = write(bundle, [tokens for _, tokens in fits], decoding)
        return [
            Sample(f"{_shown(row)}\n", answer.text)
            for (row, _), answer in zip(fits, written, strict=True)
        ]

    def _rows(self, context: StageContext) -> Iterator[Row]:
        objective = cast("Objective", context.registry.build(context.config.objective))
        corpus = Corpus(context.config.data, objective.columns, context.store, context.announce)
        rows = (row for name in corpus.names for row in corpus.held_out(name))
        return ({"prompt": row["prompt"]} for row in rows if "prompt" in row)


def _shown(row: Row) -> str:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return prompt
    return str(cast("list[dict[str, object]]", prompt)[-1]["content"])
