"""Cross-entropy over a vocabulary that never holds the logits of more than one chunk.

Only positions that carry a label reach the output layer, some hundreds at a time. A summed loss
computes its gradients while it has the logits, in three matrix products a chunk (Hsu et al. 2024,
"Liger Kernel", section 3.2); log-probabilities compute each chunk's logits twice instead.
"""
# B batch, T time, N labelled positions, C positions of a chunk, D width, V vocabulary

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ontogeny.output_layer import OutputLayer, label_states, product_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CHUNK_BYTES = 2**26  # of a chunk's logits: larger chunks are no faster
BLOCK_ELEMENTS = 2**22  # of what a CPU passes over several times in float32: stays in its cache


def vocabulary_loss(
    model: nn.Module,
    inputs: Mapping[str, object],
    labels_BT: Tensor,
    *,
    chunk_rows: int | None = None,
) -> Tensor:
    """Return the sum of -log p(label) over the positions whose label is not -100.

    `labels_BT[b, t]` is what position t must predict: nothing is shifted. The result is a 0-d
    float32 tensor that can go backward once. Raises ConfigError as `label_states` does.
    """
    hidden_ND, labels_N, layer = label_states(model, inputs, labels_BT)
    if layer.linear is None:
        return -_layer_log_probs(hidden_ND, layer, labels_N, chunk_rows).sum()
    return cross_entropy_sum(hidden_ND, *layer.linear, labels_N, chunk_rows)


def label_log_probs(
    model: nn.Module,
    inputs: Mapping[str, object],
    labels_BT: Tensor,
    *,
    chunk_rows: int | None = None,
) -> Tensor:
    """Return log p(label) of the N positions whose label is not -100, row by row, in float32.

    Labels and errors as in `vocabulary_loss`; differentiable with any gradient of the result.
    """
    return state_log_probs(*label_states(model, inputs, labels_BT), chunk_rows)


def state_log_probs(
    hidden_ND: Tensor,
    labels_N: Tensor,
    layer: OutputLayer,
    chunk_rows: int | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Return log p(label) of each state, [N], as `label_log_probs` does; see `label_states`.

    Logits are divided by the temperature.
    """
    if layer.linear is None:
        return _layer_log_probs(hidden_ND, layer, labels_N, chunk_rows, temperature)
    weight_VD, bias_V = layer.linear
    if temperature != 1:
        hidden_ND = hidden_ND / temperature
        bias_V = None if bias_V is None else bias_V / temperature
    return log_probs(hidden_ND, weight_VD, bias_V, labels_N, chunk_rows)


@torch.no_grad()
def over_logits(
    hidden_ND: Tensor, layer: OutputLayer, statistic: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return a statistic of the logits of each state, [N], such as their entropy; no gradient.

    `statistic` is given float32 logits_CV, a chunk at a time, and returns a value for each row.
    """
    size = _chunk_rows(layer.vocabulary, torch.float32)
    return torch.cat([statistic(layer(part).float()) for part in hidden_ND.detach().split(size)])


def cross_entropy_sum(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    chunk_rows: int | None = None,
) -> Tensor:
    """Return the 0-d sum of -log softmax(hidden weightᵀ + bias)[label]; no label is -100.

    Products are in autocast's type, else in the weight's; softmax, sums and the result in float32
    (float64 for float64). The gradients are computed here and only scaled on the way back.
    """
    operands = (hidden_ND, weight_VD, bias_V, labels_N)
    loss = _CrossEntropySum.apply(chunk_rows, torch.is_grad_enabled(), *operands)  # type: ignore[no-untyped-call]
    return cast("Tensor", loss)


def log_probs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    chunk_rows: int | None = None,
) -> Tensor:
    """Return log softmax(hidden weightᵀ + bias)[label] of each row; types as `cross_entropy_sum`.

    Every chunk's logits are computed again on the way back.
    """
    result = _LogProbs.apply(chunk_rows, hidden_ND, weight_VD, bias_V, labels_N)  # type: ignore[no-untyped-call]
    return cast("Tensor", result)


def logits_agree(model: nn.Module, inputs: Mapping[str, object]) -> float:
    """Return how far log-probabilities by chunks are from those of the model's own logits.

    The largest absolute difference over all positions, each with its likeliest label and another
    one, in eval mode without gradients. For a tiny batch: it holds all logits.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            expected_BTV = model(**inputs).logits.float().log_softmax(-1)
            likeliest_BT = expected_BTV.argmax(-1)
            other_BT = (likeliest_BT + expected_BTV.shape[-1] // 2) % expected_BTV.shape[-1]
            labels_2BT = torch.stack([likeliest_BT, other_BT])
            actual = torch.cat([label_log_probs(model, inputs, labels) for labels in labels_2BT])
    finally:
        for module in training:
            module.training = True
    expected = expected_BTV.expand(2, *expected_BTV.shape).gather(-1, labels_2BT[..., None])
    return float((actual - expected.flatten()).abs().max())


def compile_softmax(enabled: bool) -> None:
    """Choose, once for a run, whether torch.compile makes the softmax of a chunk one kernel.

    Off at first. On a CPU it needs a C++ compiler and some seconds; last bits differ.
    """
    _Choice.compiled = enabled


class _Choice:
    compiled = False


class _Operands(NamedTuple):
    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    labels_N: Tensor


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: int | None, differentiable: bool, *tensors: Tensor) -> Tensor:
        operands = _Operands(*tensors)
        dtype = product_dtype(operands.weight_VD)
        needed = ctx.needs_input_grad[2:] if differentiable else (False,) * 4
        ctx.gradients = _Gradients(operands, needed)
        scale_N = torch.ones_like(operands.labels_N, dtype=torch.float32) if any(needed) else None
        return -_sweep(operands, dtype, rows, scale_N, ctx.gradients).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("a vocabulary loss went backward twice: its gradients are spent")
        gradients, ctx.gradients = ctx.gradients.all(), None
        for each in gradients:
            if each is not None:
                each.mul_(gradient)
        return None, None, *gradients, None


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: int | None, *tensors: Tensor) -> Tensor:
        operands = _Operands(*tensors)
        ctx.save_for_backward(*operands)
        ctx.rows, ctx.dtype = rows, product_dtype(operands.weight_VD)
        return _sweep(operands, ctx.dtype, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:
        operands = _Operands(*ctx.saved_tensors)
        gradients = _Gradients(operands, ctx.needs_input_grad[1:])
        _sweep(operands, ctx.dtype, ctx.rows, -gradient_N, gradients)
        return None, *gradients.all(), None


class _Gradients:
    """Gradients of what needs them, in float32 (autograd gives them the type of their tensor)."""

    def __init__(self, operands: _Operands, needed: Sequence[bool]) -> None:
        self.hidden_ND, self.weight_VD, self.bias_V, _ = (
            torch.zeros_like(tensor, dtype=_wide(tensor.dtype))
            if tensor is not None and need
            else None
            for tensor, need in zip(operands, needed, strict=True)
        )
        self._product_VD: Tensor | None = None  # kept: fresh memory of this size is slow

    def all(self) -> tuple[Tensor | None, ...]:
        """Return them in the order of the operands."""
        return self.hidden_ND, self.weight_VD, self.bias_V

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
        for block in _slices(len(total_VD), _block_rows(total_VD)):
            # A sum of two types is three times slower than a change of type and a sum.
            total_VD[block] += product_VD[block].to(total_VD.dtype)


def _sweep(
    operands: _Operands,
    dtype: torch.dtype,
    chunk_rows: int | None,
    scale_N: Tensor | None = None,
    gradients: _Gradients | None = None,
) -> Tensor:
    """Return log p of every label; with a scale, add the gradients of -Σ scale · log p."""
    hidden_ND, weight_VD, bias_V, labels_N = operands
    weight_VD = weight_VD.to(dtype)
    size = min(chunk_rows or _chunk_rows(len(weight_VD), dtype), len(labels_N))
    logits_CV = weight_VD.new_empty(size, len(weight_VD))
    log_probs_N = torch.empty_like(labels_N, dtype=_wide(dtype))
    with torch.autocast(weight_VD.device.type, enabled=False):
        for rows in _slices(len(labels_N), size):
            hidden_CD = hidden_ND[rows].to(dtype)
            logits_CV.resize_(len(hidden_CD), len(weight_VD))  # in the memory it has
            torch.mm(hidden_CD, weight_VD.T, out=logits_CV)
            if bias_V is not None:
                logits_CV += bias_V.to(dtype)
            scale_C = None if scale_N is None else scale_N[rows]
            log_probs_N[rows] = _softmax(logits_CV, labels_N[rows], scale_C)
            if gradients is not None and scale_N is not None:
                gradients.add(rows, logits_CV, hidden_CD, weight_VD)
    return log_probs_N


def _layer_log_probs(
    hidden_ND: Tensor,
    layer: OutputLayer,
    labels_N: Tensor,
    chunk_rows: int | None,
    temperature: float = 1.0,
) -> Tensor:
    """Do as `log_probs` with any layer, which is called again on the way back."""

    def chunk(hidden_CD: Tensor, labels_C: Tensor) -> Tensor:
        logits_CV = layer(hidden_CD) if temperature == 1 else layer(hidden_CD) / temperature
        result = _LogitsLogProbs.apply(logits_CV, labels_C)  # type: ignore[no-untyped-call]
        return cast("Tensor", result)

    size = chunk_rows or _chunk_rows(layer.vocabulary, torch.float32)
    chunks = [
        checkpoint(chunk, hidden_ND[rows], labels_N[rows], use_reentrant=False)
        for rows in _slices(max(1, len(labels_N)), size)
    ]
    return torch.cat(chunks)


class _LogitsLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_CV: Tensor, labels_C: Tensor) -> Tensor:
        ctx.save_for_backward(logits_CV, labels_C)
        return _softmax(logits_CV, labels_C, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_C: Tensor) -> tuple[Tensor, None]:
        logits_CV, labels_C = ctx.saved_tensors
        gradient_CV = logits_CV.clone()
        _softmax(gradient_CV, labels_C, -gradient_C)
        return gradient_CV, None


def _softmax(logits_CV: Tensor, labels_C: Tensor, scale_C: Tensor | None) -> Tensor:
    """Return log p of the labels; with a scale, turn logits into the gradient of -Σ scale · log p.

    Without one the logits stay as they are.
    """
    with torch.autocast(logits_CV.device.type, enabled=False):
        if not _Choice.compiled or len(labels_C) == 0:
            return _eager_softmax(logits_CV, labels_C, scale_C)
        # Copies, since torch compiles again for views of other tensors.
        scale_C = scale_C if scale_C is None else scale_C.clone()
        return _compiled_softmax()(logits_CV, labels_C.clone(), scale_C)


def _eager_softmax(logits_CV: Tensor, labels_C: Tensor, scale_C: Tensor | None) -> Tensor:
    log_probs_C = torch.empty_like(labels_C, dtype=_wide(logits_CV.dtype))
    size = min(_block_rows(logits_CV), len(labels_C))
    wide = torch.empty_like(logits_CV[:size], dtype=log_probs_C.dtype)
    for rows in _slices(len(labels_C), size):
        block, label = wide[: len(labels_C[rows])].copy_(logits_CV[rows]), labels_C[rows, None]
        highest, at_label = block.amax(-1), block.gather(-1, label).squeeze(-1)
        torch.softmax(block, -1, out=block)
        # The highest probability is exp(highest - log Σ exp), and never too small for a float.
        log_probs_C[rows] = at_label - highest + block.amax(-1).log()
        if scale_C is not None:
            block.scatter_add_(-1, label, torch.full_like(label, -1, dtype=block.dtype))
            logits_CV[rows] = block.mul_(scale_C[rows, None])
    return log_probs_C


def _fused_softmax(logits_CV: Tensor, labels_C: Tensor, scale_C: Tensor | None) -> Tensor:
    """Say what `_eager_softmax` does in a way that becomes one kernel."""
    wide_CV = logits_CV.to(_wide(logits_CV.dtype))
    highest_C1 = wide_CV.amax(-1, keepdim=True)
    normaliser_C1 = highest_C1 + (wide_CV - highest_C1).exp().sum(-1, keepdim=True).log()
    log_probs_C = (wide_CV.gather(-1, labels_C[:, None]) - normaliser_C1).squeeze(-1)
    if scale_C is not None:
        is_label_CV = torch.arange(wide_CV.shape[-1], device=labels_C.device) == labels_C[:, None]
        gradient_CV = (wide_CV - normaliser_C1).exp() - is_label_CV.to(wide_CV.dtype)
        logits_CV.copy_(gradient_CV * scale_C[:, None])
    return log_probs_C


@functools.cache
def _compiled_softmax() -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    # Dynamic from the start: a shorter last chunk, or another vocabulary, is the same kernel.
    return torch.compile(_fused_softmax, dynamic=True)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunk_rows(vocabulary: int, dtype: torch.dtype) -> int:
    return max(1, CHUNK_BYTES // (vocabulary * dtype.itemsize))


def _block_rows(matrix: Tensor) -> int:
    """Return how many rows to pass over at once: all of them, unless there is a cache to mind."""
    return max(1, BLOCK_ELEMENTS // matrix.shape[1] if matrix.is_cpu else len(matrix))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, max(1, size))]
