"""What objectives on pairs share: rows with two branches, and the proof that they are exact."""
# B rows, T tokens, N scored tokens

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from ontogeny.attention import attention_window, is_causal
from ontogeny.chat.pairs import COLUMNS, pairs_of
from ontogeny.errors import ConfigError, UserError
from ontogeny.objective import Batch, Example, LongExamples, Objective, Row
from ontogeny.preflight import Proof, future_proof
from ontogeny_plugins.preference.scoring import collate_pairs, token_log_probs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

TOLERANCE = 1e-3  # nats of a token, float32
WAY_OUT = "set objective.share_prompt=false"


class PairObjective(Objective):
    """Trains on rows of prompt, chosen and rejected, text or conversations."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS
    long_examples: ClassVar[LongExamples] = "leave_out"  # a cut would fall on the rejected answer

    def __init__(self, *, share_prompt: bool) -> None:
        self.share_prompt = share_prompt
        self.packs = share_prompt  # type: ignore[misc]  # this objective's own, by its options

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Yield a row with two branches for each pair: input_ids, labels and branch_ids, [T]."""
        for pair in pairs_of(rows, tokenizer):
            yield pair.branched()

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest row, and number the pairs."""
        return collate_pairs(examples, share_prompt=self.share_prompt)

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model is causal, and that a shared prompt changes no log-probability."""
        names = ("input_ids", "attention_mask")
        shown: Batch = {name: batch[name] for name in names if name in batch}
        yield future_proof(model, shown, causal=is_causal(model))
        if self.share_prompt:
            yield sharing_proof(model, batch)


def sharing_proof(model: nn.Module, batch: Batch) -> Proof:
    """Compare the branches of one pair with the same answers in rows of their own."""
    name = "a shared prompt changes no log-probability"
    example = _first_pair(batch)
    window = attention_window(model)
    if window is not None and window < batch["input_ids"].shape[1]:
        msg = (
            f"the attention of {type(model).__name__} looks back {window} tokens, which are "
            f"counted otherwise where two answers share a row; {WAY_OUT}, or shorten rows "
            f"(data.max_length)"
        )
        raise ConfigError(msg)
    device = next(model.parameters()).device
    found = []
    try:
        for share in (True, False):
            made = collate_pairs([example], share_prompt=share)
            made = {column: tensor.to(device) for column, tensor in made.items()}
            with torch.no_grad():
                found.append(token_log_probs(model, made))
    except UserError:
        raise
    except Exception as error:  # each family that takes no such mask fails in its own way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        msg = f"{type(model).__name__} cannot read two answers in one row ({reason}); {WAY_OUT}"
        raise ConfigError(msg) from error
    far = float((found[0] - found[1]).abs().max())
    evidence = f"log-probabilities differ by {far:.1e}"
    return Proof(name, far <= TOLERANCE, evidence if far <= TOLERANCE else f"{evidence}; {WAY_OUT}")


def _first_pair(batch: Batch) -> Example:
    """Return the first pair of the first row as an example of its own."""
    row = {name: batch[name][0].cpu().numpy() for name in ("input_ids", "labels", "branch_ids")}
    kept = batch["pair_ids"][0].cpu().numpy() >= 0  # padding belongs to no pair
    if "document_ids" in batch:
        documents = batch["document_ids"][0].cpu().numpy()
        kept = documents == documents[0]
    elif "attention_mask" in batch:
        kept = batch["attention_mask"][0].cpu().numpy().astype(bool)
    else:
        kept[:] = True
    return {name: column[kept] for name, column in row.items()}
