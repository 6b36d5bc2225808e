"""What an expansion must hold to: old ids, the same text back, old probabilities."""
# N positions, D width, V vocabulary

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.attention import model_inputs
from ontogeny.output_layer import label_states
from ontogeny.preflight import TOLERANCE, Proof
from ontogeny_plugins.vocabulary.rules import rules_of, unknown_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.objective import Batch
    from ontogeny_plugins.vocabulary.expansion import Expansion


def ids_proof(before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> Proof:
    """Compare the id of every old token."""
    old, new = before.get_vocab(), after.get_vocab()
    moved = [token for token, number in old.items() if new.get(token) != number]
    evidence = f"{len(moved)} of {len(old):,} old tokens moved"
    return Proof("old tokens keep their ids", not moved, evidence)


def text_proof(
    before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Proof:
    """Encode and decode texts with both tokenizers: the same must come back.

    But for what the old one did not know at all.
    """
    unknown = unknown_token(rules_of(before))
    exact = broken = 0
    for text in texts:
        old, new = _ids(before, text), _ids(after, text)
        back = _text(after, new)
        exact += back == text
        broken += back != _text(before, old) and unknown not in old
    evidence = f"{exact} of {len(texts)} texts come back exactly, {broken} otherwise than before"
    return Proof("text comes back as before", not broken, evidence)


def bound_proof(model: PreTrainedModel, expansion: Expansion, batch: Batch, init: str) -> Proof:
    """Measure how much of the old probabilities the new tokens take.

    With p before and p' after, over the old tokens, KL(p‖p') = ln(Z'/Z) at every position. Rows
    that are the mean of V old ones keep it within ln(1 + n/V), if logits are linear (Hewitt, 2021).
    """
    name = "new tokens take their share at most"
    if "input_ids" not in batch or model.get_output_embeddings() is None:
        return Proof(name, None, "the model predicts no tokens here")
    divergence_N = divergences(model, expansion, batch)
    if divergence_N is None:
        return Proof(name, None, "the logits are not a linear map")
    largest = float(divergence_N.max())
    bound = math.log1p(len(expansion) / expansion.first_id)
    evidence = f"KL is {largest:.3g} nats at most; the mean's bound is {bound:.3g}"
    holds = largest <= bound + TOLERANCE if init == "mean" else None
    return Proof(name, holds, evidence)


def divergences(model: PreTrainedModel, expansion: Expansion, batch: Batch) -> Tensor | None:
    """Return KL(p‖p') in nats at the first positions of a batch, [N]; None for curved logits."""
    row = {name: tensor[:1, :24] for name, tensor in batch.items() if tensor.dim() == 2}
    every_position = row.get("decoder_input_ids", row["input_ids"])
    with torch.no_grad():
        hidden_ND, _, layer = label_states(model, model_inputs(model, row), every_position)
        if layer.linear is None:  # soft caps
            return None
        logits_NV = layer(hidden_ND).double()
    total_N = logits_NV.logsumexp(-1)
    logits_NV[:, expansion.ids.start : expansion.ids.stop] = -torch.inf
    return cast("Tensor", total_N - logits_NV.logsumexp(-1))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
