"""A question and its context as windows that fit into the model, and overlap."""
# T tokens

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from ontogeny.attention import model_inputs
from ontogeny.errors import ConfigError, RowError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from ontogeny.objective import Batch, Example, Row
    from ontogeny_plugins.span_qa.answers import Answer

PER_TOKEN = ("input_ids", "token_type_ids")


@dataclass(frozen=True)
class Window:
    """A question and a part of its context."""

    row: int
    tokens: Example  # input_ids and, where the tokenizer gives them, token_type_ids
    starts_T: np.ndarray  # the first character of the context in each token, -1 for other tokens
    stops_T: np.ndarray  # the character after the last one

    def span(self, answer: Answer) -> tuple[int, int] | None:
        """Return the first and the last token of an answer, or none if not all of it is here."""
        is_in_T = (self.stops_T > answer.start) & (self.starts_T < answer.stop)
        places = np.flatnonzero(is_in_T & (self.starts_T >= 0))
        if not len(places):
            return None
        first, last = int(places[0]), int(places[-1])
        whole = self.starts_T[first] <= answer.start and self.stops_T[last] >= answer.stop
        return (first, last) if whole else None


def windows_of(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> Iterator[Window]:
    """Yield the windows of each row: question first, then as much of the context as fits.

    Raises RowError for questions that leave no room, ConfigError for tokenizers that do not tell
    where their tokens stand, or a stride that leaves no room.
    """
    if not tokenizer.is_fast:
        msg = (
            f"the tokenizer, a {type(tokenizer).__name__}, does not tell where its tokens stand in "
            f"the text; span_qa needs one with a tokenizer.json"
        )
        raise ConfigError(msg)
    require_room(rows, tokenizer, max_length, stride)
    encoded = tokenizer(
        [_question(row, tokenizer) for row in rows],
        [str(row["context"]) for row in rows],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    names = [name for name in PER_TOKEN if name in encoded]
    for part, row in enumerate(encoded["overflow_to_sample_mapping"]):
        is_context_T = np.array([side == 1 for side in encoded.sequence_ids(part)])
        offsets_T2 = np.array(encoded["offset_mapping"][part])
        yield Window(
            row,
            {name: np.array(encoded[name][part], np.int32) for name in names},
            np.where(is_context_T, offsets_T2[:, 0], -1),
            np.where(is_context_T, offsets_T2[:, 1], -1),
        )


def window_inputs(model: nn.Module, batch: Batch) -> dict[str, object]:
    """Return the arguments of the model; segment ids only where it has embeddings for them."""
    inputs = model_inputs(model, batch)
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    if getattr(config, "type_vocab_size", 0) < 2:
        inputs.pop("token_type_ids", None)
    return inputs


def end_logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the scores of a model for start and end, [B, T]; raise ConfigError if it has none."""
    output = model(**window_inputs(model, batch))
    if not hasattr(output, "start_logits"):
        msg = (
            f"{type(model).__name__} has no scores for where an answer begins and ends: span_qa "
            f"goes with head=question_answering"
        )
        raise ConfigError(msg)
    return output.start_logits.float(), output.end_logits.float()


def null_at_the_end(model: nn.Module) -> bool:
    """Say which token stands for "no answer": the last of a decoder, which alone has seen all."""
    config = cast("PreTrainedConfig", model.config)
    is_masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    is_decoder = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not is_masked
    return is_decoder or bool(getattr(config, "is_decoder", False))


def _question(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the question, on a line of its own where the tokenizer puts nothing behind it."""
    alone, pair = (tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True))
    return str(row["question"]).strip() + ("\n" if alone == pair else "")


def require_room(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> None:
    """Raise RowError for the first question that leaves no room for its context.

    Raises ConfigError for a stride that leaves none to any.
    """
    questions = [_question(row, tokenizer) for row in rows]
    encoded = tokenizer(questions, add_special_tokens=False, verbose=False)["input_ids"]
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length - special <= stride:
        msg = (
            f"stride is {stride}, but windows have data.max_length={max_length} tokens: take a "
            f"smaller stride (objective.stride, evaluator.span_qa.stride) or longer windows"
        )
        raise ConfigError(msg)
    for index, ids in enumerate(encoded):
        room = max_length - len(ids) - special
        if room <= stride:
            reason = (
                f"the question has {len(ids)} tokens, which leaves {room} of data.max_length="
                f"{max_length} for the context, no more than the stride of {stride}"
            )
            raise RowError(index, reason)
