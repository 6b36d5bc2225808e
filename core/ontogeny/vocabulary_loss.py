"""Cross-entropy over a vocabulary that never holds the logits of more than one chunk.

Only positions that carry a label reach the output layer, some hundreds at a time. A summed loss
computes its gradients while it has the logits, in three matrix products a chunk (Hsu et al. 2024,
"Liger Kernel", section 3.2); log-probabilities compute each chunk's logits twice instead.
"""
# B batch, T time, N labelled positions, C positions of a chunk, D width, V vocabulary

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

from ontogeny.errors import ConfigError
from ontogeny.objective import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

CHUNK_ELEMENTS = 2**24  # logits of a chunk, 64 MB in float32: larger chunks are no faster
BLOCK_ELEMENTS = 2**22  # of what a CPU passes over several times: stays in its cache


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
    hidden_ND, labels_N, layer = label_states(model, inputs, labels_BT)
    if layer.linear is None:
        return _layer_log_probs(hidden_ND, layer, labels_N, chunk_rows)
    return log_probs(hidden_ND, *layer.linear, labels_N, chunk_rows)


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
    rows = chunk_rows or _chunk_rows(len(weight_VD))
    arguments = (hidden_ND, weight_VD, bias_V, labels_N, rows, torch.is_grad_enabled())
    return cast("Tensor", _CrossEntropySum.apply(*arguments))  # type: ignore[no-untyped-call]


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
    rows = chunk_rows or _chunk_rows(len(weight_VD))
    arguments = (hidden_ND, weight_VD, bias_V, labels_N, rows)
    return cast("Tensor", _LogProbs.apply(*arguments))  # type: ignore[no-untyped-call]


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


def compile_softmax(enabled: bool) -> None:  # noqa: FBT001  the one thing it says
    """Choose, once for a run, whether torch.compile makes the softmax of a chunk one kernel.

    Off at first. On a CPU it needs a C++ compiler and some seconds; last bits differ.
    """
    _Choice.compiled = enabled


class _Choice:
    compiled = False


# ---------------------------------------------------------------- from a model to its output layer


class OutputLayer(nn.Module):
    """Maps rows of hidden states to a model's logits, with all that the model does to them."""

    def __init__(self, layer: nn.Module, recorded: _Recorder, logits: _Recorder) -> None:
        super().__init__()
        hooks = layer._forward_hooks or layer._forward_pre_hooks  # noqa: SLF001  no public way
        self.layer = layer
        self.replay = logits.replay  # soft caps, scales; None: nothing
        # (weight_VD, bias_V) if one linear map is all that happens, wherever the weights are from
        self.linear = None if hooks or self.replay else recorded.linear
        self.leading = (1,) * (recorded.ndim - 2)  # dimensions that the model's own code expects
        self.vocabulary = int(logits.shape[-1])

    def forward(self, hidden_CD: Tensor) -> Tensor:
        """Return logits_CV; the layer's own hooks run."""
        if self.replay is None:
            return cast("Tensor", self.layer(hidden_CD))
        hidden = hidden_CD.view(*self.leading, *hidden_CD.shape)
        return self.replay(self.layer(hidden)).view(-1, self.vocabulary)


def label_states(
    model: nn.Module, inputs: Mapping[str, object], labels_BT: Tensor
) -> tuple[Tensor, Tensor, OutputLayer]:
    """Run a model up to its output layer; return hidden_ND, labels_N and that layer.

    N are the positions whose label is not -100. Waits for a GPU once, to know N. Raises
    ConfigError if the logits do not come from one layer, or not at every position.
    """
    hidden_BTD, layer = _run_without_logits(model, inputs)
    if hidden_BTD.shape[:-1] != labels_BT.shape:
        msg = (
            f"{type(model).__name__} feeds {tuple(hidden_BTD.shape[:-1])} positions to its output "
            f"layer; expected those of the labels, {tuple(labels_BT.shape)}: leave out what adds "
            f"or drops positions (virtual tokens, logits_to_keep)"
        )
        raise ConfigError(msg)
    hidden_ND, labels_N = hidden_BTD.flatten(0, -2), labels_BT.flatten()
    positions_N = (labels_N != IGNORED).nonzero().squeeze(1)
    if len(positions_N) < len(labels_N):
        hidden_ND, labels_N = hidden_ND[positions_N], labels_N[positions_N]
    return hidden_ND, labels_N, layer


def _run_without_logits(
    model: nn.Module, inputs: Mapping[str, object]
) -> tuple[Tensor, OutputLayer]:
    """Run a model with an output layer that is shown no positions; return its input and itself."""
    find = getattr(model, "get_output_embeddings", None)
    layer = cast("nn.Module | None", find() if find else None)
    states: list[Tensor] = []
    recorded: list[Any] = []
    logits: list[_Recorder] = []
    if layer is not None:
        forward = layer.forward

        def record(hidden: Tensor) -> Tensor:
            states.append(hidden)
            recorded.append(forward(_Recorder.start(hidden[..., :0, :])))
            return _Recorder.start(recorded[-1])

        with _replaced_forward(layer, record):
            outputs = model(**inputs)
        values = outputs.values() if hasattr(outputs, "values") else outputs
        logits = [value for value in values if isinstance(value, _Recorder)]
    if layer is None or len(states) != 1 or len(logits) != 1:
        msg = (
            f"{type(model).__name__} makes {len(logits)} tensors of logits in {len(states)} calls "
            f"of its output embeddings; expected one in one: take a model with a causal or masked "
            f"language modelling head"
        )
        raise ConfigError(msg)
    return states[0], OutputLayer(layer, recorded[0], logits[0])


@contextmanager
def _replaced_forward(layer: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    own = vars(layer).get("forward")  # other libraries put theirs on the instance
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own


class _Recorder(Tensor):
    """A tensor of no positions that records what is done to it, to do it to a chunk later."""

    replay: Callable[[Tensor], Tensor] | None = None  # None: nothing but changes of type
    linear: tuple[Tensor, Tensor | None] | None = None  # weight, bias: nothing but this product

    @classmethod
    def start(cls, tensor: Tensor) -> _Recorder:
        """Forget what was done to a tensor, and record from here."""
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  as torch's own subclasses do
            return tensor.detach().as_subclass(cls)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Do it to what is empty, and remember in what comes out how to do it again."""
        kwargs = dict(kwargs or {})
        replay = _replay(func, args, kwargs)
        linear = _linear_map(func, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001
            result = func(*args, **kwargs)
        changed = args[0] if func is Tensor.__setitem__ else result
        if isinstance(changed, Tensor):
            if not isinstance(changed, cls):
                changed = result = changed.as_subclass(cls)
            changed.replay, changed.linear = replay, linear
        return result


def _replay(
    func: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[Tensor], Tensor] | None:
    """Return the operation as a function of what takes the place of the recorders' origin."""
    if func in _CASTS and isinstance(args[0], _Recorder):
        return args[0].replay
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _Recorder)]
    earlier = {id(leaf): leaf.replay or (lambda given: given) for leaf in leaves}

    def replay(given: Tensor) -> Tensor:
        filled, named = tree_map(
            lambda leaf: earlier[id(leaf)](given) if id(leaf) in earlier else leaf, (args, kwargs)
        )
        result = func(*filled, **named)
        return cast("Tensor", filled[0] if func is Tensor.__setitem__ else result)

    return replay


_CASTS = (Tensor.float, Tensor.to, Tensor.contiguous)  # the softmax is in float32 anyway


def _linear_map(
    func: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias if the operation is the first one and linear."""
    if func in _CASTS and isinstance(args[0], _Recorder):
        return args[0].linear
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    if func is not nn.functional.linear or given["input"].replay is not None:
        return None
    return given["weight"], given.get("bias")


# -------------------------------------------------------------------------------- chunk by chunk


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917  what autograd hands over
        ctx: Any,  # noqa: ANN401  autograd's own context
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        rows: int,
        differentiable: bool,  # noqa: FBT001
    ) -> Tensor:
        operands = (hidden_ND, weight_VD, bias_V)
        needed = ctx.needs_input_grad[:3] if differentiable else (False, False, False)
        ctx.gradients = _Gradients(operands, needed)
        scale_N = torch.ones(len(labels_N), device=labels_N.device) if any(needed) else None
        dtype = _product_dtype(weight_VD)
        return -_sweep(operands, labels_N, rows, dtype, scale_N, ctx.gradients).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        if ctx.gradients is None:
            msg = "a vocabulary loss went backward twice; its gradients were spent the first time"
            raise RuntimeError(msg)
        gradients, ctx.gradients = ctx.gradients, None
        return (*gradients.scaled(gradient), None, None, None)


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917  what autograd hands over
        ctx: Any,  # noqa: ANN401
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        rows: int,
    ) -> Tensor:
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N)
        ctx.rows, ctx.dtype = rows, _product_dtype(weight_VD)
        return _sweep((hidden_ND, weight_VD, bias_V), labels_N, rows, ctx.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        *operands, labels_N = ctx.saved_tensors
        gradients = _Gradients(operands, ctx.needs_input_grad[:3])
        _sweep(operands, labels_N, ctx.rows, ctx.dtype, -gradient_N, gradients)
        return (*gradients.scaled(), None, None)


class _Gradients:
    """Gradients of hidden, weight and bias, summed over chunks in float32; None if not needed."""

    def __init__(self, operands: Sequence[Tensor | None], needed: Sequence[bool]) -> None:
        self.dtypes = [operand.dtype if operand is not None else None for operand in operands]
        self.hidden, self.weight, self.bias = (
            torch.zeros_like(operand, dtype=_wide(operand.dtype)) if need else None
            for operand, need in zip(operands, needed, strict=True)
        )
        self._product_VD: Tensor | None = None  # reused: fresh memory of this size is slow

    def add(self, rows: slice, gradient_CV: Tensor, hidden_CD: Tensor, weight_VD: Tensor) -> None:
        """Add a chunk's, given the gradient of its logits."""
        if self.hidden is not None:
            self.hidden[rows] = gradient_CV @ weight_VD
        if self.bias is not None:
            self.bias += gradient_CV.sum(0, dtype=self.bias.dtype)
        if self.weight is None:
            return
        if self.weight.dtype == hidden_CD.dtype:
            self.weight.addmm_(gradient_CV.T, hidden_CD)
            return
        if self._product_VD is None:
            self._product_VD = torch.empty_like(weight_VD)
        torch.mm(gradient_CV.T, hidden_CD, out=self._product_VD)
        for block in _slices(len(weight_VD), _block_rows(weight_VD)):
            self.weight[block] += self._product_VD[block].to(self.weight.dtype)

    def scaled(self, factor: Tensor | None = None) -> Iterator[Tensor | None]:
        """Give the gradients, multiplied in place, in the types of what they belong to."""
        gradients = (self.hidden, self.weight, self.bias)
        for gradient, dtype in zip(gradients, self.dtypes, strict=True):
            if gradient is not None and factor is not None:
                gradient.mul_(factor)
            yield gradient if gradient is None else gradient.to(dtype)


def _sweep(  # noqa: PLR0913, PLR0917  one loop behind three passes
    operands: Sequence[Tensor | None],
    labels_N: Tensor,
    chunk_rows: int,
    dtype: torch.dtype,
    scale_N: Tensor | None = None,
    gradients: _Gradients | None = None,
) -> Tensor:
    """Return log p of every label; with a scale, add the gradients of -Σ scale · log p."""
    hidden_ND, weight_VD, bias_V = operands
    weight_VD = weight_VD.to(dtype)
    with torch.autocast(weight_VD.device.type, enabled=False):
        size = min(chunk_rows, len(labels_N))
        buffer_CV = weight_VD.new_empty(size, len(weight_VD))
        log_probs_N = torch.empty(len(labels_N), dtype=_wide(dtype), device=labels_N.device)
        for rows in _slices(len(labels_N), chunk_rows):
            hidden_CD = hidden_ND[rows].to(dtype)
            logits_CV = torch.mm(hidden_CD, weight_VD.T, out=buffer_CV[: len(hidden_CD)])
            if bias_V is not None:
                logits_CV += bias_V.to(dtype)
            scale_C = None if scale_N is None else scale_N[rows]
            log_probs_N[rows] = _softmax(logits_CV, labels_N[rows], scale_C)
            if gradients is not None and scale_N is not None:
                gradients.add(rows, logits_CV, hidden_CD, weight_VD)
    return log_probs_N


def _layer_log_probs(
    hidden_ND: Tensor, layer: OutputLayer, labels_N: Tensor, chunk_rows: int | None
) -> Tensor:
    """Do as `log_probs` with any layer, which is called again on the way back."""

    def chunk(hidden_CD: Tensor, labels_C: Tensor) -> Tensor:
        return cast("Tensor", _LogitsLogProbs.apply(layer(hidden_CD), labels_C))  # type: ignore[no-untyped-call]

    size = chunk_rows or _chunk_rows(layer.vocabulary)
    chunks = [
        checkpoint(chunk, hidden_ND[rows], labels_N[rows], use_reentrant=False)
        for rows in _slices(max(1, len(labels_N)), size)
    ]
    return torch.cat(chunks)


class _LogitsLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_CV: Tensor, labels_C: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(logits_CV, labels_C)
        return _softmax(logits_CV, labels_C, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_C: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        logits_CV, labels_C = ctx.saved_tensors
        gradient_CV = logits_CV.clone()
        _softmax(gradient_CV, labels_C, -gradient_C)
        return gradient_CV, None


def _softmax(logits_CV: Tensor, labels_C: Tensor, scale_C: Tensor | None) -> Tensor:
    """Return log p of the labels; with a scale, turn logits into the gradient of -Σ scale · log p.

    Without one the logits stay as they are.
    """
    with torch.autocast(logits_CV.device.type, enabled=False):
        if _Choice.compiled and len(labels_C) > 0:
            return _compiled_softmax()(logits_CV, labels_C, scale_C)
        return _eager_softmax(logits_CV, labels_C, scale_C)


def _eager_softmax(logits_CV: Tensor, labels_C: Tensor, scale_C: Tensor | None) -> Tensor:
    """Do it in blocks that stay in a CPU's cache, so that memory is read and written once."""
    log_probs_C = torch.empty(len(labels_C), dtype=_wide(logits_CV.dtype), device=labels_C.device)
    size = min(_block_rows(logits_CV), len(labels_C))
    scratch = torch.empty_like(logits_CV[:size], dtype=log_probs_C.dtype)
    for rows in _slices(len(labels_C), size):
        block = scratch[: len(labels_C[rows])].copy_(logits_CV[rows])
        label = labels_C[rows, None]
        highest, at_label = block.amax(-1), block.gather(-1, label).squeeze(-1)
        torch.softmax(block, -1, out=block)
        # The highest probability is exp(highest - log Σ exp): exact where the label's underflows.
        log_probs_C[rows] = at_label - highest + block.amax(-1).log()
        if scale_C is not None:
            block.scatter_add_(-1, label, torch.full_like(label, -1, dtype=block.dtype))
            logits_CV[rows] = block.mul_(scale_C[rows, None])
    return log_probs_C


def _fused_softmax(logits_CV: Tensor, labels_C: Tensor, scale_C: Tensor | None) -> Tensor:
    """Say the same as `_eager_softmax` in a way that becomes one kernel."""
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
    # Dynamic from the start: a last chunk of fewer rows, or another vocabulary, is the same kernel.
    return torch.compile(_fused_softmax, dynamic=True)


def _product_dtype(weight_VD: Tensor) -> torch.dtype:
    device = weight_VD.device.type
    if torch.is_autocast_enabled(device) and weight_VD.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight_VD.dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunk_rows(vocabulary: int) -> int:
    return max(1, CHUNK_ELEMENTS // vocabulary)


def _block_rows(matrix: Tensor) -> int:
    """Return how many rows to pass over at once: all of them where there is no cache to mind."""
    return max(1, BLOCK_ELEMENTS // matrix.shape[1] if matrix.is_cpu else len(matrix))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
