"""A run proves itself before its first step: invariants, checked on one tiny batch of its own."""
# P parameters

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ontogeny.attention import model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.data.packing import pack
from ontogeny.errors import UserError
from ontogeny.objective import IGNORED, Batch, Example, Objective, OnlineObjective
from ontogeny.seeding import seed_everything
from ontogeny.vocabulary_loss import logits_agree

if TYPE_CHECKING:
    from ontogeny.adapter import Adapter, Bundle

TOLERANCE = 2e-4  # relative, float32


class PreflightError(UserError):
    """A proof failed: the run would have computed something else than what it says."""


@dataclass(frozen=True)
class Proof:
    """One invariant with what was measured; `holds` is None where it does not apply."""

    name: str
    holds: bool | None
    evidence: str


def prove(
    bundle: Bundle, objective: Objective, examples: Sequence[Example], adapters: Sequence[Adapter]
) -> list[Proof]:
    """Check the invariants on a few examples, in float32 and without dropout."""
    model = bundle.model
    training = model.training
    model.eval()
    seed_everything("preflight")
    try:
        batch = _to(model, objective.collate(examples))
        proofs = [
            _ids_in_range(bundle, batch),
            _labels_exist(examples),
            *_token_proofs(model, objective, examples),
            _accumulation(model, objective, examples),
            *(proof for adapter in adapters for proof in adapter.proofs(bundle, batch)),
            *objective.proofs(model, batch),
        ]
    finally:
        model.train(training)
        model.zero_grad(set_to_none=True)
    return proofs


def require(proofs: Sequence[Proof]) -> None:
    """Raise PreflightError for the first proof that failed."""
    for proof in proofs:
        if proof.holds is False:
            msg = (
                f"preflight: {proof.name} does not hold: {proof.evidence}; preflight=off skips this"
            )
            raise PreflightError(msg)


def _ids_in_range(bundle: Bundle, batch: Batch) -> Proof:
    rows = len(cast("Tensor", bundle.model.get_input_embeddings().weight))
    ids = [tensor for name, tensor in batch.items() if name.endswith("input_ids")]
    highest = max((int(tensor.max()) for tensor in ids), default=0)
    size = len(bundle.tokenizer)
    evidence = f"{size} tokens, highest id {highest}, {rows} embedding rows"
    return Proof("tokenizer ids < embedding rows", max(highest + 1, size) <= rows, evidence)


def _labels_exist(examples: Sequence[Example]) -> Proof:
    if "labels" not in examples[0]:
        return Proof("every row has a label", None, "the objective labels no tokens")
    counts = [int((example["labels"] != IGNORED).sum()) for example in examples]
    evidence = f"{min(counts)} to {max(counts)} labels in {len(counts)} rows"
    return Proof("every row has a label", min(counts) > 0, evidence)


def _token_proofs(
    model: nn.Module, objective: Objective, examples: Sequence[Example]
) -> Iterable[Proof]:
    if "labels" not in examples[0] or not _is_per_token(examples[0]):
        return
    plain = [_without_packing(example) for example in examples]
    plain = [example for example in plain if len(example["input_ids"]) > 3]
    if not plain:
        return
    yield _padding(model, objective, plain)
    if objective.packs:
        yield _isolation(model, plain)


def _padding(model: nn.Module, objective: Objective, examples: Sequence[Example]) -> Proof:
    """Compare a row alone with the same row beside a longer one."""
    short = {name: column[: len(column) // 2] for name, column in examples[0].items()}
    alone = _loss(model, objective, [short])
    long = _loss(model, objective, [examples[0]])
    together = _loss(model, objective, [short, examples[0]])
    return _equal("padding changes no loss", alone + long, together)


def _isolation(model: nn.Module, examples: Sequence[Example]) -> Proof:
    """Replace one document of a packed row; the logits of the other must not move."""
    first, second = (_short(example) for example in (examples[0], examples[-1]))
    changed = {**first, "input_ids": first["input_ids"][::-1].copy()}
    length = len(first["input_ids"])
    before, after = (_logits(model, pack([head, second])) for head in (first, changed))
    moved = float((before - after)[length:].abs().max())
    alone = _logits(model, pack([second]))
    differs = float((before[length:] - alone).abs().max())
    evidence = f"logits move by {moved:.1e}, differ from the document alone by {differs:.1e}"
    largest = float(alone.abs().max())  # of a new model it may be far below 1
    holds = max(moved, differs) <= TOLERANCE * largest
    return Proof("packed documents are isolated", holds, evidence)


def _accumulation(model: nn.Module, objective: Objective, examples: Sequence[Example]) -> Proof:
    """Compare one batch with two of unequal size: a mean of means would be another number."""
    name = "accumulation changes no gradient"
    if isinstance(objective, OnlineObjective):
        return Proof(name, None, "the objective makes its own batches")
    together_P = _gradient(model, objective, [[*examples, examples[0]]])
    in_parts_P = _gradient(model, objective, [examples, examples[:1]])
    difference = float((together_P - in_parts_P).abs().max() / together_P.max().clamp(min=1e-8))
    return Proof(name, difference < TOLERANCE, f"relative difference {difference:.1e}")


def _gradient(
    model: nn.Module, objective: Objective, batches: Sequence[Sequence[Example]]
) -> Tensor:
    """Return the norm of each parameter's gradient of the summed loss over its weight, [P]."""
    model.zero_grad(set_to_none=True)
    weight = 0.0
    for batch in batches:
        seed_everything("preflight", "gradient")
        loss = objective.loss(model, _to(model, objective.collate(batch)))
        loss.total.backward()
        weight += float(loss.weight)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.stack([gradient.norm() for gradient in gradients]) / max(weight, 1.0)


def _equal(name: str, left: float, right: float) -> Proof:
    difference = abs(left - right) / max(1e-8, abs(left), abs(right))
    return Proof(name, difference < TOLERANCE, f"relative difference {difference:.1e}")


def _loss(model: nn.Module, objective: Objective, examples: Sequence[Example]) -> float:
    with torch.no_grad():
        seed_everything("preflight", "loss")
        return float(objective.loss(model, _to(model, objective.collate(examples))).total)


def _logits(model: nn.Module, row: Example) -> Tensor:
    batch = _to(model, collate_tokens([row]))
    with torch.no_grad():
        return model(**model_inputs(model, batch)).logits[0].float()  # type: ignore[no-any-return]


def _to(model: nn.Module, batch: Batch) -> Batch:
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _is_per_token(example: Example) -> bool:
    length = len(example["input_ids"])
    return all(column.ndim == 1 and len(column) == length for column in example.values())


def _short(example: Example) -> Example:
    return {name: column[:16] for name, column in example.items()}


def _without_packing(example: Example) -> Example:
    """Return the first document of a packed row as an example of its own."""
    if "document_ids" not in example:
        return example
    first = example["document_ids"] == example["document_ids"][0]
    dropped = ("document_ids", "position_ids")
    return {name: column[first] for name, column in example.items() if name not in dropped}


def future_proof(model: nn.Module, batch: Batch, *, causal: bool) -> Proof:
    """Change the last token of each row; no logit before it may move."""
    name = "no token sees the future"
    if not causal:
        return Proof(name, False, "the attention layers of this model are not causal")
    row = _first_document(batch)
    if row["input_ids"].shape[1] < 2:
        return Proof(name, None, "a document of one token")
    with torch.no_grad():
        before = model(**model_inputs(model, row)).logits
        changed = {**row, "input_ids": row["input_ids"].clone()}
        changed["input_ids"][:, -1] = (changed["input_ids"][:, -1] + 1) % before.shape[-1]
        after = model(**model_inputs(model, changed)).logits
    moved = float((before - after)[:, :-1].abs().max())
    return Proof(name, moved < TOLERANCE, f"earlier logits move by {moved:.1e}")


def _first_document(batch: Batch, length: int = 24) -> Batch:
    """Return the first document of the first row, without padding, as a batch of its own.

    A change in another one, or in padding, would prove nothing: it is isolated anyway.
    """
    row = {name: tensor[:1] for name, tensor in batch.items() if tensor.dim() == 2}
    kept = torch.ones_like(row["input_ids"], dtype=torch.bool)
    if "document_ids" in row:
        kept = row["document_ids"] == row["document_ids"][:, :1]
    if "attention_mask" in row:
        kept = kept & row["attention_mask"].bool()
    dropped = ("document_ids", "position_ids", "attention_mask")
    return {
        name: tensor[kept][None, :length] for name, tensor in row.items() if name not in dropped
    }


def vocabulary_proof(model: nn.Module, batch: Batch) -> Proof:
    """Compare the loss without logits with the log-softmax of the model's own logits."""
    row = {key: tensor[:1, :24] for key, tensor in batch.items() if tensor.dim() == 2}
    difference = logits_agree(model, model_inputs(model, row))
    evidence = f"log-probabilities differ by {difference:.1e}"
    return Proof("the chunked loss equals the model's logits", difference < TOLERANCE, evidence)
