"""Losses of whole rows of logits, of which no more than one chunk exists at a time.

A loss says what it is for a chunk and turns the logits of that chunk into its gradient, in their
place; so the gradients of hidden states and weights are computed while the logits are there, in
three matrix products a chunk (Hsu et al. 2024, "Liger Kernel", section 3.2).
"""
# N positions, C positions of a chunk, D width, V vocabulary, M terms of a loss

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ontogeny.output_layer import product_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny.output_layer import OutputLayer

CHUNK_BYTES = 2**26  # of a chunk's logits: larger chunks are no faster
BLOCK_ELEMENTS = 2**22  # of what a CPU passes over several times in float32: stays in its cache


class RowLoss(Protocol):
    """A loss of each row of logits, for a chunk of rows at a time."""

    def __call__(self, logits_CV: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """Return losses_CM in float32, M terms of each row.

        `rows` are the chunk's places among the N. With `gradient`, the logits are turned into the
        gradient of the sum of the first term; else they may be overwritten with anything.
        """


def logit_loss(
    hidden_ND: Tensor,
    layer: OutputLayer,
    loss: RowLoss,
    *,
    vocabulary: int | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """Return the sums over all rows of the terms of a loss: [M], float32.

    Only the first goes backward, once. With `vocabulary`, a loss is shown the logits of so many
    tokens alone. Products as in `ontogeny.vocabulary_loss.cross_entropy_sum`.
    """
    if layer.linear is None:
        return _layer_loss(hidden_ND, layer, loss, vocabulary, chunk_rows)
    weight_VD, bias_V = layer.linear
    if vocabulary is not None and vocabulary < len(weight_VD):
        weight_VD, bias_V = weight_VD[:vocabulary], None if bias_V is None else bias_V[:vocabulary]
    return linear_loss(hidden_ND, weight_VD, bias_V, loss, chunk_rows)


def linear_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    loss: RowLoss,
    chunk_rows: int | None = None,
) -> Tensor:
    """Return what `logit_loss` does, for logits that are hidden weightᵀ + bias."""
    arguments = (loss, chunk_rows, torch.is_grad_enabled(), hidden_ND, weight_VD, bias_V)
    return cast("Tensor", _LogitLoss.apply(*arguments))  # type: ignore[no-untyped-call]


class ChunkedLogits:
    """Logits of any rows of hidden states, each time in the same memory; no gradient."""

    def __init__(self, hidden_ND: Tensor, layer: OutputLayer, vocabulary: int) -> None:
        self.hidden_ND, self.layer, self.vocabulary = hidden_ND.detach(), layer, vocabulary
        self._products: _Products | None = None
        if layer.linear is not None:
            weight_VD, bias_V = (each if each is None else each.detach() for each in layer.linear)
            weight_VD = cast("Tensor", weight_VD)[:vocabulary]
            bias_V = None if bias_V is None else bias_V[:vocabulary]
            self._products = _Products(weight_VD, bias_V, product_dtype(weight_VD))

    @torch.no_grad()
    def __call__(self, rows: slice) -> Tensor:
        """Return logits_CV; they are overwritten by the next call."""
        if self._products is None:
            return cast("Tensor", self.layer(self.hidden_ND[rows]))[:, : self.vocabulary]
        return self._products(self.hidden_ND[rows])[0]


def compile_kernels(enabled: bool) -> None:
    """Choose, once for a run, whether torch.compile makes what is done to a chunk one kernel.

    Off at first. On a CPU it needs a C++ compiler and some seconds; last bits differ.
    """
    _Choice.compiled = enabled


def compiles_kernels() -> bool:
    """Say what was chosen; a loss that has no compiled form need not ask."""
    return _Choice.compiled


class _Choice:
    compiled = False


class Operands(NamedTuple):
    """What logits are computed from, and their labels if a loss has any."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    labels_N: Tensor | None = None


class Gradients:
    """Gradients of what needs them, in float32 (autograd gives them the type of their tensor)."""

    def __init__(self, operands: Operands, needed: Sequence[bool]) -> None:
        self.hidden_ND, self.weight_VD, self.bias_V = (
            torch.zeros_like(tensor, dtype=wide(tensor.dtype))
            if tensor is not None and need
            else None
            for tensor, need in zip(operands[:3], needed[:3], strict=True)
        )
        self._product_VD: Tensor | None = None  # kept: fresh memory of this size is slow

    def all(self) -> tuple[Tensor | None, ...]:
        """Return them in the order of the operands."""
        return self.hidden_ND, self.weight_VD, self.bias_V

    def scaled(self, factor: Tensor) -> tuple[Tensor | None, ...]:
        """Return them after multiplying each, in place."""
        for each in self.all():
            if each is not None:
                each.mul_(factor)
        return self.all()

    def add(self, rows: slice, gradient_CV: Tensor, hidden_CD: Tensor, weight_VD: Tensor) -> None:
        """Add a chunk's, given the gradient of its logits."""
        if self.hidden_ND is not None:
            self.hidden_ND[rows] = gradient_CV @ weight_VD
        if self.bias_V is not None:
            self.bias_V += gradient_CV.sum(0, dtype=self.bias_V.dtype)
        if self.weight_VD is not None:
            self._add_weight(self.weight_VD, gradient_CV, hidden_CD)

    def _add_weight(self, total_VD: Tensor, gradient_CV: Tensor, hidden_CD: Tensor) -> None:
        if total_VD.dtype == hidden_CD.dtype:
            total_VD.addmm_(gradient_CV.T, hidden_CD)
            return
        if self._product_VD is None:
            self._product_VD = torch.empty_like(total_VD, dtype=hidden_CD.dtype)
        product_VD = torch.mm(gradient_CV.T, hidden_CD, out=self._product_VD)
        for block in slices(len(total_VD), block_rows(total_VD)):
            # A sum of two types is three times slower than a change of type and a sum.
            total_VD[block] += product_VD[block].to(total_VD.dtype)


def sweep(
    operands: Operands,
    dtype: torch.dtype,
    loss: RowLoss,
    chunk_rows: int | None,
    gradients: Gradients | None = None,
) -> Tensor:
    """Return losses_NM of all rows; with `gradients`, add those of the sum of the first term."""
    hidden_ND, weight_VD, bias_V, _ = operands
    size = min(chunk_rows or chunk_size(len(weight_VD), dtype), max(1, len(hidden_ND)))
    products = _Products(weight_VD, bias_V, dtype)
    found = []
    with torch.autocast(weight_VD.device.type, enabled=False):
        for rows in slices(max(1, len(hidden_ND)), size):
            logits_CV, hidden_CD = products(hidden_ND[rows])
            found.append(loss(logits_CV, rows, gradient=gradients is not None))
            if gradients is not None:
                gradients.add(rows, logits_CV, hidden_CD, products.weight_VD)
    return torch.cat(found)


class _Products:
    """Hidden states times the weights of a linear layer, each time in the same memory."""

    def __init__(self, weight_VD: Tensor, bias_V: Tensor | None, dtype: torch.dtype) -> None:
        self.weight_VD = weight_VD.to(dtype)
        self.bias_V = None if bias_V is None else bias_V.to(dtype)
        self._logits_CV: Tensor | None = None

    def __call__(self, hidden_CD: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits_CV and the states in the type of the product."""
        hidden_CD = hidden_CD.to(self.weight_VD.dtype)
        if self._logits_CV is None:
            self._logits_CV = self.weight_VD.new_empty(len(hidden_CD), len(self.weight_VD))
        logits_CV = self._logits_CV.resize_(len(hidden_CD), len(self.weight_VD))
        with torch.autocast(logits_CV.device.type, enabled=False):
            torch.mm(hidden_CD, self.weight_VD.T, out=logits_CV)
            if self.bias_V is not None:
                logits_CV += self.bias_V
        return logits_CV, hidden_CD


class _LogitLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss: RowLoss, rows: int | None, differentiable: bool, *tensors: Tensor
    ) -> Tensor:
        operands = Operands(*tensors)
        needed = ctx.needs_input_grad[3:] if differentiable else (False,) * 3
        ctx.gradients = Gradients(operands, needed) if any(needed) else None
        dtype = product_dtype(operands.weight_VD)
        return sweep(operands, dtype, loss, rows, ctx.gradients).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_M: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("a loss of logits went backward twice: its gradients are spent")
        gradients, ctx.gradients = ctx.gradients.scaled(gradient_M[0]), None
        return None, None, None, *gradients


def _layer_loss(
    hidden_ND: Tensor,
    layer: OutputLayer,
    loss: RowLoss,
    vocabulary: int | None,
    chunk_rows: int | None,
) -> Tensor:
    """Do as `logit_loss` with any layer, which is called again on the way back."""

    def chunk(hidden_CD: Tensor, rows: slice) -> Tensor:
        logits_CV = cast("nn.Module", layer)(hidden_CD)[:, :vocabulary]
        made = _ChunkLoss.apply(logits_CV, loss, rows, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return cast("Tensor", made)

    size = chunk_rows or chunk_size(layer.vocabulary, torch.float32)
    chunks = [
        checkpoint(chunk, hidden_ND[rows], rows, use_reentrant=False)
        for rows in slices(max(1, len(hidden_ND)), size)
    ]
    return torch.stack(chunks).sum(0)


class _ChunkLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_CV: Tensor, loss: RowLoss, rows: slice, differentiable: bool
    ) -> Tensor:
        own_CV = logits_CV.detach().clone()
        with torch.autocast(own_CV.device.type, enabled=False):
            losses_CM = loss(own_CV, rows, gradient=differentiable)
        ctx.save_for_backward(own_CV)
        return losses_CM.sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_M: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_CV,) = ctx.saved_tensors
        return gradient_CV * gradient_M[0].to(gradient_CV.dtype), None, None, None


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which softmax and sums are computed: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def chunk_size(vocabulary: int, dtype: torch.dtype) -> int:
    """Return of how many rows the logits are computed at once."""
    return max(1, CHUNK_BYTES // (vocabulary * dtype.itemsize))


def block_rows(matrix: Tensor) -> int:
    """Return how many rows to pass over at once: all of them, unless there is a cache to mind."""
    return max(1, BLOCK_ELEMENTS // matrix.shape[1] if matrix.is_cpu else len(matrix))


def slices(count: int, size: int) -> list[slice]:
    """Return consecutive slices of a size, the last one shorter."""
    return [slice(start, min(start + size, count)) for start in range(0, count, max(1, size))]
