"""Cross-entropy over a vocabulary that never holds the logits of more than one chunk.

Only positions that carry a label reach the output layer, some hundreds at a time. A summed loss
computes its gradients while it has the logits (`ontogeny.logit_loss`); log-probabilities compute
each chunk's logits twice instead.
"""
# B batch, T time, N labelled positions, C positions of a chunk, D width, V vocabulary

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ontogeny.logit_loss import (
    Gradients,
    Operands,
    block_rows,
    chunk_size,
    compiles_kernels,
    linear_loss,
    slices,
    sweep,
    wide,
)
from ontogeny.output_layer import OutputLayer, label_states, product_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


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
    size = chunk_size(layer.vocabulary, torch.float32)
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
    loss = _LabelLoss(labels_N, torch.ones_like(labels_N, dtype=torch.float32))
    return linear_loss(hidden_ND, weight_VD, bias_V, loss, chunk_rows)[0]


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


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: int | None, *tensors: Tensor) -> Tensor:
        operands = Operands(*tensors)
        ctx.save_for_backward(*operands)
        ctx.rows, ctx.dtype = rows, product_dtype(operands.weight_VD)
        loss = _LabelLoss(cast("Tensor", operands.labels_N))
        return -sweep(operands, ctx.dtype, loss, rows).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:
        operands = Operands(*ctx.saved_tensors)
        gradients = Gradients(operands, ctx.needs_input_grad[1:])
        loss = _LabelLoss(cast("Tensor", operands.labels_N), -gradient_N)
        sweep(operands, ctx.dtype, loss, ctx.rows, gradients)
        return None, *gradients.all(), None


class _LabelLoss:
    """-log p of each row's label times a scale, as a loss of logits."""

    def __init__(self, labels_N: Tensor, scale_N: Tensor | None = None) -> None:
        self.labels_N, self.scale_N = labels_N, scale_N

    def __call__(self, logits_CV: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """Return -log p, [C, 1], not scaled; its gradient is."""
        scale_C = self.scale_N[rows] if gradient and self.scale_N is not None else None
        return -_softmax(logits_CV, self.labels_N[rows], scale_C)[:, None]


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

    size = chunk_rows or chunk_size(layer.vocabulary, torch.float32)
    chunks = [
        checkpoint(chunk, hidden_ND[rows], labels_N[rows], use_reentrant=False)
        for rows in slices(max(1, len(labels_N)), size)
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
        if not compiles_kernels() or len(labels_C) == 0:
            return _eager_softmax(logits_CV, labels_C, scale_C)
        # Copies, since torch compiles again for views of other tensors.
        scale_C = scale_C if scale_C is None else scale_C.clone()
        return _compiled_softmax()(logits_CV, labels_C.clone(), scale_C)


def _eager_softmax(logits_CV: Tensor, labels_C: Tensor, scale_C: Tensor | None) -> Tensor:
    log_probs_C = torch.empty_like(labels_C, dtype=wide(logits_CV.dtype))
    size = min(block_rows(logits_CV), len(labels_C))
    wide_CV = torch.empty_like(logits_CV[:size], dtype=log_probs_C.dtype)
    for rows in slices(len(labels_C), size):
        block, label = wide_CV[: len(labels_C[rows])].copy_(logits_CV[rows]), labels_C[rows, None]
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
    wide_CV = logits_CV.to(wide(logits_CV.dtype))
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
