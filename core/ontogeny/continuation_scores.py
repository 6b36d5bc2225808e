"""How likely a causal model finds continuations of a context."""
# N continuations, B rows of a batch, T tokens, C positions of a chunk, D width, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ontogeny.attention import model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.errors import ConfigError
from ontogeny.logit_loss import CHUNK_BYTES
from ontogeny.models import longest_context
from ontogeny.objective import IGNORED
from ontogeny.output_layer import label_states
from ontogeny.prompts import start_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Batch, Example

Pair = tuple[Sequence[int], Sequence[int]]  # ids of a context and of its continuation


@dataclass(frozen=True)
class Scores:
    """What a model thinks of continuations, [N] each."""

    log_probs_N: np.ndarray  # Σ log p of its tokens, float64
    tokens_N: np.ndarray
    is_likeliest_N: np.ndarray  # whether greedy decoding would write it


def tokens_of(
    tokenizer: PreTrainedTokenizerBase, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Return the ids of a context and of its continuation, as lm-evaluation-harness cuts them.

    Spaces at the end of the context go to the continuation, whose ids are those that the whole
    text has after as many as the context has; its own, where the two melt into fewer. The context
    begins with the tokenizer's bos, else eos, token.
    """
    cut = len(context.rstrip())
    context, continuation = context[:cut], context[cut:] + continuation

    def ids(text: str) -> list[int]:
        return cast("list[int]", tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    first = ids(context)
    after = ids(context + continuation)[len(first) :] or ids(continuation)
    return [*start_tokens(tokenizer), *first], after


def score_continuations(bundle: Bundle, pairs: Sequence[Pair], batch_size: int) -> Scores:
    """Score continuations of one token or more after contexts of one token or more.

    Only the tokens of the continuations reach the output layer, and never all of their logits at
    once. Rows of like length, so the choices of a question, share a batch.
    """
    order = sorted(range(len(pairs)), key=lambda index: -sum(map(len, pairs[index])))
    scores = Scores(np.zeros(len(pairs)), np.zeros(len(pairs)), np.zeros(len(pairs), bool))
    for begin in range(0, len(order), batch_size):
        indices = order[begin : begin + batch_size]
        found = _score_batch(bundle.model, [_example(*pairs[index]) for index in indices])
        scores.log_probs_N[indices] = found.log_probs_N
        scores.tokens_N[indices] = found.tokens_N
        scores.is_likeliest_N[indices] = found.is_likeliest_N
    return scores


def require_choices(model: PreTrainedModel, key: str) -> None:
    """Raise ConfigError for a model that gives no text a likelihood; `key` is who asks."""
    if not model.can_generate() or model.config.is_encoder_decoder:
        msg = (
            f"{key} compares how likely continuations are, which a {type(model).__name__} does "
            f"not say; choose head=causal_lm"
        )
        raise ConfigError(msg)


def require_fit(model: PreTrainedModel, pairs: Sequence[Pair], key: str) -> None:
    """Raise ConfigError where a context with its continuation is longer than the model's."""
    context, longest = longest_context(model), max(len(head) + len(tail) for head, tail in pairs)
    if context is not None and longest - 1 > context:  # the last token is only predicted
        msg = (
            f"{key}: the longest question has {longest} tokens with its choice, more than the "
            f"context of the model: {context} (max_position_embeddings); shorten what stands "
            f"before it, or leave out the long rows"
        )
        raise ConfigError(msg)


def _example(context: Sequence[int], continuation: Sequence[int]) -> Example:
    """Return what is seen and, aligned, what is predicted of it."""
    line = np.array([*context, *continuation], np.int32)
    labels = line[1:].copy()
    labels[: len(context) - 1] = IGNORED
    return {"input_ids": line[:-1], "labels": labels}


def _score_batch(model: PreTrainedModel, examples: Sequence[Example]) -> Scores:
    device = next(model.parameters()).device
    batch: Batch = {name: value.to(device) for name, value in collate_tokens(examples).items()}
    labelled_BT = batch["labels"] != IGNORED
    hidden_ND, labels_N, layer = label_states(model, model_inputs(model, batch), batch["labels"])
    log_probs_BT = torch.zeros(labelled_BT.shape, dtype=torch.float64, device=device)
    misses_BT = torch.zeros_like(labelled_BT)
    parts = []
    rows = max(1, CHUNK_BYTES // (4 * layer.vocabulary))
    for hidden_CD, labels_C in zip(hidden_ND.split(rows), labels_N.split(rows), strict=True):
        logits_CV = layer(hidden_CD).float()
        log_probs_C = logits_CV.log_softmax(-1).gather(-1, labels_C[:, None]).squeeze(-1)
        parts.append((log_probs_C.double(), logits_CV.argmax(-1) != labels_C))
    log_probs_BT[labelled_BT] = torch.cat([log_probs_C for log_probs_C, _ in parts])
    misses_BT[labelled_BT] = torch.cat([misses_C for _, misses_C in parts])
    return Scores(
        log_probs_BT.sum(1).cpu().numpy(),
        labelled_BT.sum(1).cpu().numpy(),
        (~misses_BT.any(1)).cpu().numpy(),
    )
