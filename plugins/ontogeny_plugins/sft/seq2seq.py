"""Supervised fine-tuning of encoder-decoder models: prompts are read, completions written."""
# B rows, T tokens of the longest prompt, U tokens of the longest completion

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from ontogeny.attention import model_inputs, shifted_right
from ontogeny.chat.conversation import UnfitError
from ontogeny.chat.template import ChatTemplate
from ontogeny.data.collation import collate_tokens
from ontogeny.errors import ConfigError, RowError
from ontogeny.models import longest_context
from ontogeny.objective import IGNORED, Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny.preflight import TOLERANCE, Proof
from ontogeny.vocabulary_loss import logits_agree, vocabulary_loss
from ontogeny_plugins.sft.prompts import prompt_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny_plugins.sft import Seq2Seq


class Seq2SeqObjective(Objective):
    """The encoder gets the prompt, the decoder learns the completion and the eos token after it.

    With a chat template the encoder gets all turns before the last answer, rendered.
    """

    columns: ClassVar[Sequence[Sequence[str]]] = (("prompt", "completion"), ("messages",))
    long_examples: ClassVar[LongExamples] = "truncate"

    def __init__(self, config: Seq2Seq) -> None:
        self.config = config

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Yield for each row input_ids of the encoder, and decoder_labels of their own length.

        Raises RowError for a row without an answer, or with one of too many tokens.
        """
        template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        prompts = []
        for index, row in enumerate(rows):
            try:
                prompts.append(prompt_of(row, template))
            except UnfitError as error:
                raise RowError(index, str(error)) from error
        texts = [prompt.text for prompt in prompts]
        read = tokenizer(texts, verbose=False)["input_ids"]
        written = self._labels([prompt.answer for prompt in prompts], tokenizer)
        for ids, labels in zip(cast("list[list[int]]", read), written, strict=True):
            yield {"input_ids": np.array(ids, np.int32), "decoder_labels": labels}

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad both sides: input_ids [B, T] and labels [B, U]."""
        prompts = [{"input_ids": example["input_ids"]} for example in examples]
        labels = [example["decoder_labels"] for example in examples]
        labels_BU = np.full((len(labels), max(map(len, labels))), IGNORED)
        for row, label in zip(labels_BU, labels, strict=True):
            row[: len(label)] = label
        return {**collate_tokens(prompts), "labels": torch.from_numpy(labels_BU)}

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ -log p over the tokens of completions, and their number."""
        labels_BU = batch["labels"]
        total = vocabulary_loss(model, decoder_inputs(model, batch), labels_BU)
        return Loss(total, (labels_BU != IGNORED).sum())

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the loss without logits equals the log-softmax of the model's own."""
        row = {name: tensor[:1, :24] for name, tensor in batch.items()}
        difference = logits_agree(model, decoder_inputs(model, row))
        evidence = f"log-probabilities differ by {difference:.1e}"
        yield Proof("the chunked loss equals the model's logits", difference < TOLERANCE, evidence)

    def _labels(
        self, answers: Sequence[str], tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[np.ndarray]:
        """Yield the tokens of answers with what the tokenizer puts around them, and an end."""
        longest, end = self.config.max_completion, tokenizer.eos_token_id
        encoded = tokenizer(text_target=list(answers), verbose=False)["input_ids"]
        for index, ids in enumerate(cast("list[list[int]]", encoded)):
            missing = [] if end is None or end in ids else [end]
            labels = np.array([*ids, *missing], np.int32)
            if len(labels) > longest:
                msg = (
                    f"the completion has {len(labels)} tokens; objective.max_completion is "
                    f"{longest}"
                )
                raise RowError(index, msg)
            yield labels


def decoder_inputs(model: nn.Module, batch: Batch) -> dict[str, object]:
    """Return the model's arguments: the decoder sees the labels one position later.

    Raises ConfigError for a model without a start of the decoder, or with too short a context.
    """
    config = cast("PreTrainedConfig", model.config)
    start = getattr(config, "decoder_start_token_id", None)
    if not config.is_encoder_decoder or start is None:
        msg = (
            f"objective=seq2seq needs an encoder-decoder model with a decoder_start_token_id, and "
            f"{type(model).__name__} is none: choose head=seq2seq_lm and such a model, or "
            f"objective=sft"
        )
        raise ConfigError(msg)
    labels_BU, longest = batch["labels"], longest_context(cast("PreTrainedModel", model))
    if longest is not None and labels_BU.shape[1] > longest:
        msg = (
            f"a completion has {labels_BU.shape[1]} tokens, more than the context of the model: "
            f"{longest} (max_position_embeddings); lower objective.max_completion to that"
        )
        raise ConfigError(msg)
    seen_BU = shifted_right(config, labels_BU)
    return model_inputs(model, {**batch, "decoder_input_ids": seen_BU})
