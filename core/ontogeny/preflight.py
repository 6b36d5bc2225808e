"""A run proves itself before its first step: invariants, checked on one tiny batch of its own."""
# P parameters

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from ontogeny.attention import model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.data.packing import pack
from ontogeny.errors import UserError
from ontogeny.models import new_weights
from ontogeny.objective import IGNORED, Batch, Example, Objective, OnlineObjective
from ontogeny.seeding import seed_everything
from ontogeny.vocabulary_loss import logits_agree

if TYPE_CHECKING:
    from ontogeny.adapter import Adapter, Bundle

TOLERANCE = 2e-4  # relative, float32
UNPADDED = "padding changes no loss"
RANDOM = "the loss draws random numbers, others in every batch"


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
        isolation = _isolation_proofs(model, objective, examples)  # first: packing may be refused
        draws = is_random(model, objective, batch)
        proofs = [
            _ids_in_range(bundle, batch),
            *_new_weights(model),
            _labels_exist(examples),
            *_padding_proofs(model, objective, examples, draws=draws),
            *isolation,
            _accumulation(model, objective, examples, draws=draws),
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


def _new_weights(model: nn.Module) -> Iterable[Proof]:
    """Say which weights are random though there is a checkpoint: those of a new head."""
    if names := sorted(new_weights(model)):
        evidence = f"new: {', '.join(names[:4])}{', …' * (len(names) > 4)}"
        yield Proof("only the head is new", True, evidence)


def _labels_exist(examples: Sequence[Example]) -> Proof:
    if "labels" not in examples[0]:
        return Proof("every row has a label", None, "the objective labels no tokens")
    counts = [int((example["labels"] != IGNORED).sum()) for example in examples]
    evidence = f"{min(counts)} to {max(counts)} labels in {len(counts)} rows"
    return Proof("every row has a label", min(counts) > 0, evidence)


def is_random(model: nn.Module, objective: Objective, batch: Batch) -> bool:
    """Say whether the loss draws random numbers though there is no dropout: masks, say.

    What it draws for one batch says nothing about another, so that losses cannot be compared.
    """
    if isinstance(objective, OnlineObjective):
        return False
    device = next(model.parameters()).device

    def next_numbers() -> list[float]:
        drawn = [float(torch.rand((), device=place)) for place in ("cpu", device)]
        return [*drawn, np.random.random(), random.random()]  # noqa: NPY002  what others use

    seed_everything("preflight")
    untouched = next_numbers()
    seed_everything("preflight")
    with torch.no_grad():
        objective.loss(model, batch)
    return next_numbers() != untouched


def _padding_proofs(
    model: nn.Module, objective: Objective, examples: Sequence[Example], *, draws: bool
) -> list[Proof]:
    plain = _documents(examples)
    if plain and draws and objective.packs:
        return [_padding_of_logits(model, plain)]
    if not plain or "labels" not in examples[0] or not _is_per_token(examples[0]):
        return []
    if draws:
        return [Proof(UNPADDED, None, RANDOM)]
    return [_padding(model, objective, plain)]


def _isolation_proofs(
    model: nn.Module, objective: Objective, examples: Sequence[Example]
) -> list[Proof]:
    plain = _documents(examples)
    if not plain or not objective.packs:
        return []
    return [_isolation(model, plain, packed="document_ids" in examples[0])]


def _documents(examples: Sequence[Example]) -> list[Example]:
    """Return a document of each row that is long enough to be changed."""
    plain = [_without_packing(example) for example in examples if "input_ids" in example]
    return [example for example in plain if len(example["input_ids"]) > 3]


def _padding(model: nn.Module, objective: Objective, examples: Sequence[Example]) -> Proof:
    """Compare a row alone with the same row beside a longer one."""
    short = {name: column[: len(column) // 2] for name, column in examples[0].items()}
    alone = _loss(model, objective, [short])
    long = _loss(model, objective, [examples[0]])
    together = _loss(model, objective, [short, examples[0]])
    return _equal(UNPADDED, alone + long, together)


def _padding_of_logits(model: nn.Module, examples: Sequence[Example]) -> Proof:
    """Compare the logits of a row alone with those of the same row beside a longer one."""
    long = _tokens(examples[0])
    short = {name: column[: len(column) // 2] for name, column in long.items()}
    together, alone = _logits(model, [short, long]), _logits(model, [short])
    moved = float((together[0, : alone.shape[1]] - alone[0]).abs().max())
    holds = moved <= TOLERANCE * float(alone.abs().max())
    return Proof("padding changes no logit", holds, f"logits move by {moved:.1e}")


def _isolation(model: nn.Module, examples: Sequence[Example], *, packed: bool) -> Proof:
    """Replace one document of a packed row; the logits of the other must not move."""
    name = "packed documents are isolated"
    first, second = (_short(_tokens(example)) for example in (examples[0], examples[-1]))
    changed = {**first, "input_ids": first["input_ids"][::-1].copy()}
    alone = _logits(model, [second])[0]
    try:
        rows = [_logits(model, [pack([head, second])])[0] for head in (first, changed)]
    except UserError:
        raise
    except Exception as error:  # each family that takes no such mask fails in its own way
        if packed:
            raise PreflightError(_cannot_pack(model, error)) from error
        return Proof(name, None, "this model cannot pack, and data.packing is false")
    before, after = (row[len(first["input_ids"]) :] for row in rows)
    moved = float((before - after).abs().max())
    differs = float((before - alone).abs().max())
    evidence = f"logits move by {moved:.1e}, differ from the document alone by {differs:.1e}"
    largest = float(alone.abs().max())  # of a new model it may be far below 1
    holds = max(moved, differs) <= TOLERANCE * largest
    return Proof(name, holds, evidence if holds else f"{evidence}; data.packing=false packs none")


def _cannot_pack(model: nn.Module, error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return (
        f"preflight: {type(model).__name__} takes no mask that keeps documents of a row apart "
        f"({reason}); set data.packing=false"
    )


def _accumulation(
    model: nn.Module, objective: Objective, examples: Sequence[Example], *, draws: bool
) -> Proof:
    """Compare one batch with two of unequal size: a mean of means would be another number."""
    name = "accumulation changes no gradient"
    if isinstance(objective, OnlineObjective):
        return Proof(name, None, "the objective makes its own batches")
    if not objective.rows_are_independent:
        return Proof(name, None, "the rows of a batch are told from each other")
    if draws:
        return Proof(name, None, RANDOM)
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


def _logits(model: nn.Module, rows: Sequence[Example]) -> Tensor:
    batch = _to(model, collate_tokens(rows))
    with torch.no_grad():
        return model(**model_inputs(model, batch)).logits.float()  # type: ignore[no-any-return]


def _to(model: nn.Module, batch: Batch) -> Batch:
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _is_per_token(example: Example) -> bool:
    length = len(example["input_ids"])
    return all(column.ndim and len(column) == length for column in example.values())


def _tokens(example: Example) -> Example:
    """Return the columns that have a value, or several, for every token."""
    shape = example["input_ids"].shape
    return {name: column for name, column in example.items() if column.shape[:1] == shape}


def _short(example: Example) -> Example:
    return {name: column[:16] for name, column in example.items()}


def _without_packing(example: Example) -> Example:
    """Return the first document of a packed row as an example of its own, by its tokens."""
    if "document_ids" not in example:
        return example
    first = example["document_ids"] == example["document_ids"][0]
    dropped = ("document_ids", "position_ids")
    return {name: column[first] for name, column in _tokens(example).items() if name not in dropped}


def future_proof(model: nn.Module, batch: Batch, *, causal: bool) -> Proof:
    """Change the last token of each row; no logit before it may move."""
    name = "no token sees the future"
    if not causal:
        return Proof(name, False, "the attention layers of this model are not causal")
    moved = _moved_by_the_last_token(model, batch)
    if moved is None:
        return Proof(name, None, "a document of one token")
    return Proof(name, moved < TOLERANCE, f"earlier logits move by {moved:.1e}")


def both_sides_proof(model: nn.Module, batch: Batch, *, causal: bool) -> Proof:
    """Change the last token of each row; logits before it must move."""
    name = "every token sees both sides"
    if causal:
        evidence = "the attention layers of this model are causal: choose an encoder and its head"
        return Proof(name, False, evidence)
    moved = _moved_by_the_last_token(model, batch)
    if moved is None:
        return Proof(name, None, "a document of one token")
    return Proof(name, moved > 0, f"earlier logits move by {moved:.1e}")


def _moved_by_the_last_token(model: nn.Module, batch: Batch) -> float | None:
    """Return how far earlier logits move with the last token; None where there are none."""
    row = _first_document(batch)
    if row["input_ids"].shape[1] < 2:
        return None
    with torch.no_grad():
        before = model(**model_inputs(model, row)).logits
        changed = {**row, "input_ids": row["input_ids"].clone()}
        changed["input_ids"][:, -1] = (changed["input_ids"][:, -1] + 1) % before.shape[-1]
        after = model(**model_inputs(model, changed)).logits
    return float((before - after)[:, :-1].abs().max())


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
