"""The promises of `loss`: a sum with its weight, whatever shares the batch or the row."""
# S seeds: one for an exact loss, many for one that draws random numbers

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ontogeny.data.collation import pad_row
from ontogeny.data.examples import TOKENS
from ontogeny.data.packing import pack
from ontogeny.objective import Example, Loss, Objective
from ontogeny.preflight import is_random
from ontogeny.seeding import seed_everything
from ontogeny.testing.contract import require
from ontogeny.testing.examples import token_count

if TYPE_CHECKING:
    from collections.abc import Sequence

TOLERANCE = 1e-4  # relative, float32
SEEDS = 16  # of a random loss, which is compared in its mean
STANDARD_ERRORS = 6.0
LESSONS = 10
SUM = "return the sum, and in weight how many were summed: the core divides"

Batches = list[list["Example"]]
Sums = dict[str, Tensor]  # name -> [S], float64


class LossCheck:
    """Checks the loss of one objective on one model, in float32 and without dropout."""

    def __init__(self, who: str, objective: Objective, model: nn.Module) -> None:
        self.who = who
        self.objective = objective
        self.model = model.eval()
        self.seed = 0  # one that leaves something to sum
        self.seeds = 1

    def run(self, examples: Sequence[Example]) -> None:
        """Check everything on the shortest and the longest of the examples."""
        by_length = sorted(examples, key=token_count)
        short, long = by_length[0], by_length[-1]
        broken = f"all examples have {token_count(long)} tokens, so padding cannot be tried"
        mend = "give rows of unequal length: rows=[...]"
        require(token_count(short) < token_count(long), self.who, broken, mend)
        self.seed = self._useful_seed([short, long])
        check_form(self.who, self._loss([short, long], self.seed))
        self._check_seed([short, long])
        self._check_gradient([short, long])
        if not self.objective.rows_are_independent:
            return
        self._teach([short, long])
        self._check_sums(short, long)
        if self.seeds == 1:
            self._check_accumulation(short, long)

    def _check_sums(self, short: Example, long: Example) -> None:
        """Let a row come twice, two share a batch and then a row, and one be cut in two."""
        once, twice = self._sums([[long]]), self._sums([[long, long]])
        doubled = {name: 2 * value for name, value in once.items()}
        self._require_equal(twice, doubled, "{} of a row twice is no double of it once", SUM)
        apart = self._sums([[short], [long]])
        told = "{} of a row alone is another one than beside a longer row"
        mend = "let no padding, and no other row, count: mask it and label it -100"
        self._require_equal(self._sums([[short, long]]), apart, told, mend)
        if self.objective.packs:
            packed = pack([long, short])
            padded = pad_row(packed, len(packed[TOKENS]) + 3)
            told = "{} of packed documents is another one than of each alone"
            mend = "pass document_ids and position_ids on (ontogeny.attention.model_inputs), or "
            mend += "set packs = False"
            self._require_equal(self._sums([[padded]]), apart, told, mend)
        if self.objective.long_examples == "split":
            pieces = _cut(long)
            whole, cut = self._sums([[long]]), self._sums([[piece] for piece in pieces])
            told = "{} of an example is another one than of its two halves"
            mend = "align the labels in prepare and shift nothing in loss, or "
            mend += 'set long_examples = "truncate"'
            weights = {"weight": cut["weight"]}, {"weight": whole["weight"]}
            self._require_equal(*weights, told, mend)

    def _useful_seed(self, examples: list[Example]) -> int:
        """Return a seed that leaves something to sum: of a few tokens it may mask none."""
        for seed in range(SEEDS):
            loss = self._loss(examples, seed)
            weight = loss.weight if isinstance(loss, Loss) else None
            if not isinstance(weight, Tensor) or bool((weight > 0).any()):
                return seed
        return 0

    def _check_seed(self, examples: list[Example]) -> None:
        """Find out whether the loss is random; then it must follow torch's seed."""
        first, again = (float(self._loss(examples, self.seed).total.detach()) for _ in range(2))
        broken = f"loss gives {first} and then {again} for the same batch, weights and seed"
        mend = "draw random numbers from torch's generator alone and keep no state"
        require(first == again, self.who, broken, mend)
        if is_random(self.model, self.objective, self.objective.collate(examples)):
            self.seeds = SEEDS

    def _check_gradient(self, examples: list[Example]) -> None:
        gradients = self._gradient([examples])
        finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
        mend = "let total depend on the model's outputs through differentiable operations"
        require(finite, self.who, "the gradient of loss.total is not finite", mend)
        moves = any(bool(gradient.any()) for gradient in gradients)
        require(moves, self.who, "the gradient of loss.total is zero everywhere", mend)

    def _check_accumulation(self, short: Example, long: Example) -> None:
        together, apart = self._gradient([[short, long]]), self._gradient([[short], [long]])
        largest = max(float(gradient.abs().max()) for gradient in together)
        pairs = zip(together, apart, strict=True)
        moved = max(float((one - other).abs().max()) for one, other in pairs)
        broken = (
            f"gradients accumulated over two batches differ from those of one by {moved:.1e}, "
            f"and the largest is {largest:.1e}"
        )
        require(moved <= TOLERANCE * largest, self.who, broken, SUM)

    def _teach(self, examples: Sequence[Example]) -> None:
        """Learn a little: with random weights, metrics such as accuracy are 0 whatever is wrong."""
        trained = [each for each in self.model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for step in range(LESSONS):
            loss = self._loss(examples, seed=step)
            (loss.total / loss.weight.clamp(min=1)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _gradient(self, batches: Batches) -> list[Tensor]:
        self.model.zero_grad(set_to_none=True)
        for batch in batches:
            self._loss(batch, self.seed).total.backward()
        trained = [each for each in self.model.parameters() if each.requires_grad]
        found = [torch.zeros(()) if each.grad is None else each.grad for each in trained]
        self.model.zero_grad(set_to_none=True)
        return found

    def _loss(self, examples: Sequence[Example], seed: int) -> Loss:
        batch = self.objective.collate(examples)
        seed_everything("loss", seed)
        return self.objective.loss(self.model, batch)

    def _sums(self, batches: Batches) -> Sums:
        """Return total, weight and metrics, each summed over batches: [S]."""
        rows: dict[str, list[float]] = defaultdict(lambda: [0.0] * self.seeds)
        with torch.no_grad():
            for number, batch in enumerate(batches):
                for seed in range(self.seeds):
                    loss = self._loss(batch, seed + SEEDS * number)
                    for name, value in _values(loss).items():
                        rows[name][seed] += float(value)
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}

    def _require_equal(self, left: Sums, right: Sums, told: str, mend: str) -> None:
        for name in {**left, **right}:
            zeros = torch.zeros(self.seeds, dtype=torch.float64)
            one, other = left.get(name, zeros), right.get(name, zeros)
            scale = max(float(one.abs().mean()), float(other.abs().mean()))
            error = 0.0 if self.seeds == 1 else float((one - other).std()) / self.seeds**0.5
            allowed = TOLERANCE * scale + STANDARD_ERRORS * error
            broken = f"{told.format(f'loss.{name}')}: {one.mean():.6g}, not {other.mean():.6g}"
            equal = abs(float((one - other).mean())) <= allowed
            require(equal, self.who, broken, mend)


def check_form(who: str, loss: object) -> None:
    """Check that a loss is a Loss of 0-d tensors that can go backward."""
    kind = type(loss).__name__
    mend = "return Loss(total, weight, metrics) with 0-d tensors"
    if not isinstance(loss, Loss):
        require(False, who, f"loss returns a {kind}", mend)
        return
    for name, value in _values(loss).items():
        broken = f"loss.{name} is a {type(value).__name__}"
        require(isinstance(value, Tensor), who, broken, mend)
        require(value.ndim == 0, who, f"loss.{name} has shape {tuple(value.shape)}", mend)
        finite = bool(torch.isfinite(value.detach()))
        require(finite, who, f"loss.{name} is {value}", "let it be finite with random weights")
    require(loss.total.requires_grad, who, "loss.total has no gradient", "detach nothing in it")
    weight = f"loss.weight is {float(loss.weight)}"
    require(float(loss.weight) > 0, who, weight, "count what total sums: tokens, pairs or rows")


def _values(loss: Loss) -> dict[str, Tensor]:
    metrics: dict[str, Tensor] = {}
    for name, value in loss.metrics.items():
        both = value if isinstance(value, tuple) else (value,)
        metrics |= {f"metrics[{name!r}]{'[1]' * place}": part for place, part in enumerate(both)}
    return {"total": loss.total, "weight": loss.weight, **metrics}


def _cut(example: Example) -> list[Example]:
    """Cut an example into halves, as the core cuts one that is too long for a row."""
    length = len(example[TOKENS])
    halves = (slice(0, length // 2), slice(length // 2, length))
    return [
        {
            name: column[half] if column.shape[:1] == (length,) else column
            for name, column in example.items()
        }
        for half in halves
    ]
