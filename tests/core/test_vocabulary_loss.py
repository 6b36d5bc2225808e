from __future__ import annotations

import copy
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ontogeny.errors import ConfigError
from ontogeny.logit_loss import compile_kernels, compiles_kernels
from ontogeny.output_layer import label_states
from ontogeny.vocabulary_loss import (
    cross_entropy_sum,
    label_log_probs,
    log_probs,
    logits_agree,
    vocabulary_loss,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Raised inside peft by its own code.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

# N positions, D width, V vocabulary
N, D, V = 13, 8, 50
CHUNKS = [1, 4, 13, 100, None]
SMALL = {"vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def llama(cls: type[Any] = transformers.LlamaForCausalLM, *, tied: bool = True) -> nn.Module:
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=1, tie_word_embeddings=tied)
    return made(cls, config)


def gpt2() -> nn.Module:
    sizes = {"vocab_size": V, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    config = transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, attn_pdrop=0.0)
    return made(transformers.GPT2LMHeadModel, config)


def bert() -> nn.Module:
    model = made(transformers.BertForMaskedLM, transformers.BertConfig(**SMALL))
    nn.init.normal_(model.get_output_embeddings().bias)
    return model


def t5() -> nn.Module:
    sizes = {"vocab_size": V, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(**sizes, pad_token_id=0, decoder_start_token_id=0)
    return made(transformers.T5ForConditionalGeneration, config)


def gemma2() -> nn.Module:
    caps = {"head_dim": 8, "num_key_value_heads": 1, "final_logit_softcapping": 0.5}
    return made(transformers.Gemma2ForCausalLM, transformers.Gemma2Config(**SMALL, **caps))


def cohere() -> nn.Module:
    config = transformers.CohereConfig(**SMALL, num_key_value_heads=1, logit_scale=0.3)
    return made(transformers.CohereForCausalLM, config)


def bart() -> nn.Module:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": V}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": 0}
    widths = {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "forced_eos_token_id": None}
    model = made(
        transformers.BartForConditionalGeneration,
        transformers.BartConfig(**sizes, **heads, **widths, bos_token_id=1, eos_token_id=2),
    )
    model.final_logits_bias.normal_()
    return model


def made(cls: type[Any], config: object) -> Any:
    torch.manual_seed(0)
    model = cls(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()  # no dropout, so that two runs can be compared


MODELS = [llama, gpt2, bert, t5, gemma2, cohere, bart]


def batch(model: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
    """Return inputs and labels [2, 7], some of which are -100."""
    generator = torch.Generator().manual_seed(1)
    ids_BT, labels_BT = torch.randint(3, V, (2, 2, 7), generator=generator)
    labels_BT[torch.rand(2, 7, generator=generator) < 0.4] = -100
    inputs = {"input_ids": ids_BT}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids_BT.flip(1)
    return inputs, labels_BT


def rows(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return random hidden_ND, weight_VD, bias_V (each a leaf) and labels_N."""
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(*shape, generator=generator).to(dtype).requires_grad_()
        for shape in [(N, D), (V, D), (V,)]
    ]
    return leaves[0], leaves[1], leaves[2], torch.randint(V, (N,), generator=generator)


def reference(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return log p [N] in float64, and float64 leaves to differentiate by."""
    tensors = [t for t in (hidden_ND, weight_VD, bias_V) if t is not None]
    leaves = [t.detach().double().requires_grad_() for t in tensors]
    return -F.cross_entropy(F.linear(*leaves), labels_N, reduction="none"), leaves


def model_reference(
    model: nn.Module, inputs: dict[str, Tensor], labels_BT: Tensor
) -> tuple[Tensor, nn.Module]:
    """Return log p [N] of a float64 copy of the model, by its own logits, and the copy."""
    double = copy.deepcopy(model).double()
    logits_BTV = double(**inputs).logits
    flat = F.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten(), reduction="none")
    return -flat[labels_BT.flatten() != -100], double


def check_gradients(model: nn.Module, expected: nn.Module) -> None:
    for (name, parameter), other in zip(
        model.named_parameters(), expected.parameters(), strict=True
    ):
        assert (parameter.grad is None) == (other.grad is None), name
        if parameter.grad is not None:
            close(parameter.grad, other.grad, atol=1e-5, rtol=1e-4)


def check_model(model: nn.Module, chunk_rows: int | None = 3) -> None:
    """Check values and gradients of the loss and of log-probabilities."""
    inputs, labels_BT = batch(model)
    expected_N, double = model_reference(model, inputs, labels_BT)
    weights_N = torch.randn(len(expected_N), generator=torch.Generator().manual_seed(2))

    loss = vocabulary_loss(model, inputs, labels_BT, chunk_rows=chunk_rows)
    close(loss, -expected_N.sum())
    loss.backward()
    (-expected_N.sum()).backward(retain_graph=True)
    check_gradients(model, double)

    model.zero_grad()
    double.zero_grad()
    actual_N = label_log_probs(model, inputs, labels_BT, chunk_rows=chunk_rows)
    close(actual_N, expected_N)
    (actual_N @ weights_N).backward()
    (expected_N @ weights_N.double()).backward()
    check_gradients(model, double)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), atol=atol, rtol=rtol)


class Allocations(TorchDispatchMode):
    """Records the shapes of all tensors that operations give."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.shapes.add(tuple(tensor.shape))
        return result


# ------------------------------------------------------------------------------- hidden and weight


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk_rows", CHUNKS)
def test_the_sum_and_its_gradients_equal_float64(
    chunk_rows: int | None, *, with_bias: bool
) -> None:
    hidden, weight, bias, labels = rows()
    leaves = [hidden, weight, bias] if with_bias else [hidden, weight]
    expected, doubles = reference(hidden, weight, bias if with_bias else None, labels)
    loss = cross_entropy_sum(hidden, weight, bias if with_bias else None, labels, chunk_rows)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    close(loss, -expected.sum())
    gradients = torch.autograd.grad(loss * 0.3, leaves)
    wanted = torch.autograd.grad(-expected.sum() * 0.3, doubles)
    for gradient, other in zip(gradients, wanted, strict=True):
        close(gradient, other)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk_rows", CHUNKS)
def test_log_probs_take_any_gradient(chunk_rows: int | None, *, with_bias: bool) -> None:
    hidden, weight, bias, labels = rows()
    leaves = [hidden, weight, bias] if with_bias else [hidden, weight]
    expected, doubles = reference(hidden, weight, bias if with_bias else None, labels)
    actual = log_probs(hidden, weight, bias if with_bias else None, labels, chunk_rows)
    close(actual, expected)
    given = torch.randn(N, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad(actual, leaves, given)
    wanted = torch.autograd.grad(expected, doubles, given.double())
    for gradient, other in zip(gradients, wanted, strict=True):
        close(gradient, other)


def test_a_label_whose_probability_underflows_is_exact() -> None:
    hidden = torch.tensor([[1.0]])
    weight = torch.tensor([[0.0], [300.0], [299.0]])
    actual = log_probs(hidden, weight, None, torch.tensor([0]))
    normaliser = 300 + torch.tensor(-1.0, dtype=torch.float64).exp().log1p()  # by hand
    close(actual, -normaliser[None])


def test_autocast_rounds_the_products_and_nothing_else() -> None:
    hidden, weight, _, labels = rows()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy_sum(hidden, weight, None, labels, N)
    gradients = torch.autograd.grad(loss, [hidden, weight])
    rounded = F.linear(hidden.bfloat16(), weight.bfloat16()).double()
    close(loss, F.cross_entropy(rounded, labels, reduction="sum"))
    expected, doubles = reference(hidden, weight, None, labels)
    wanted = torch.autograd.grad(-expected.sum(), doubles)
    for gradient, other in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        close(gradient, other, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("chunk_rows", [4, None])
def test_bfloat16_weights_get_bfloat16_gradients(chunk_rows: int | None) -> None:
    hidden, weight, bias, labels = rows(torch.bfloat16)
    loss = cross_entropy_sum(hidden, weight, bias, labels, chunk_rows)
    expected, doubles = reference(hidden, weight, bias, labels)
    close(loss, -expected.sum(), atol=0.1, rtol=0.01)
    gradients = torch.autograd.grad(loss, [hidden, weight, bias])
    wanted = torch.autograd.grad(-expected.sum(), doubles)
    for gradient, other in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.bfloat16
        close(gradient, other, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("function", [cross_entropy_sum, log_probs])
def test_a_frozen_weight_costs_no_gradient_of_its_size(function: Callable[..., Tensor]) -> None:
    hidden, weight, bias, labels = rows()
    frozen = weight.detach(), bias.detach()
    with Allocations() as made_of:
        loss = function(hidden, *frozen, labels, 4).sum()
        loss.backward()
    assert hidden.grad is not None
    assert (V, D) not in made_of.shapes


@pytest.mark.parametrize("function", [cross_entropy_sum, log_probs])
def test_only_the_bias_may_be_trained(function: Callable[..., Tensor]) -> None:
    hidden, weight, bias, labels = rows()
    total = function(hidden.detach(), weight.detach(), bias, labels, 4).sum()
    expected, doubles = reference(hidden, weight, bias, labels)
    sign = -1 if function is cross_entropy_sum else 1
    (wanted,) = torch.autograd.grad(sign * expected.sum(), doubles[2:])
    close(torch.autograd.grad(total, [bias])[0], wanted)


@pytest.mark.parametrize("function", [cross_entropy_sum, log_probs])
def test_no_rows_give_zero_and_zero_gradients(function: Callable[..., Tensor]) -> None:
    hidden, weight, bias, labels = rows()
    total = function(hidden[:0], weight, bias, labels[:0]).sum()
    assert total.item() == 0
    total.backward()
    assert not weight.grad.any()
    assert not bias.grad.any()


def test_going_backward_twice_is_an_error() -> None:
    hidden, weight, bias, labels = rows()
    loss = cross_entropy_sum(hidden, weight, bias, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward twice"):
        loss.backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("function", [cross_entropy_sum, log_probs])
def test_a_gpu_gives_what_a_cpu_does(function: Callable[..., Tensor]) -> None:
    tensors = rows()
    on_gpu = [t.detach().cuda().requires_grad_(t.requires_grad) for t in tensors]
    gradients = torch.autograd.grad(function(*on_gpu, 4).sum(), on_gpu[:3])
    wanted = torch.autograd.grad(function(*tensors, 4).sum(), tensors[:3])
    for gradient, other in zip(gradients, wanted, strict=True):
        close(gradient.cpu(), other, atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("make", MODELS)
def test_a_model_gets_the_loss_and_the_gradients_of_its_own_logits(
    make: Callable[[], nn.Module],
) -> None:
    check_model(make())


@pytest.mark.parametrize("make", MODELS)
def test_chunked_log_probabilities_agree_with_the_logits(make: Callable[[], nn.Module]) -> None:
    model = make()
    assert logits_agree(model, batch(model)[0]) < 1e-5


@pytest.mark.parametrize("make", [llama, gpt2, bert, t5])
def test_a_plain_output_layer_is_recognised(make: Callable[[], nn.Module]) -> None:
    model = make()
    layer = label_states(model, *batch(model))[2]
    assert layer.linear is not None
    assert layer.linear[0] is model.get_output_embeddings().weight
    assert layer.linear[1] is model.get_output_embeddings().bias


def test_labels_may_be_of_32_bits() -> None:
    model = llama()
    inputs, labels_BT = batch(model)
    loss = vocabulary_loss(model, inputs, labels_BT)
    assert vocabulary_loss(model, inputs, labels_BT.int()) == loss


def test_an_untied_model_gets_its_gradients() -> None:
    check_model(llama(tied=False))


class Odd(transformers.LlamaForCausalLM):
    """Does to its logits what no configuration tells."""

    def forward(self, **inputs: Any) -> Any:
        outputs = super().forward(**inputs)
        logits = outputs.logits.contiguous()
        logits.mul_(0.5)
        halved = torch.where(logits > 0, logits, 2 * logits)
        halved[..., [4, 7]] = -30.0
        outputs.logits = torch.cat([halved[..., :40], logits[..., 40:]], dim=-1)
        return outputs


def test_whatever_a_model_does_to_its_logits_is_done_to_a_chunk() -> None:
    model = llama(Odd)
    inputs, labels_BT = batch(model)
    assert logits_agree(model, inputs) < 1e-5
    check_model(model)
    hidden_ND, _, layer = label_states(model, inputs, labels_BT)
    expected = model(**inputs).logits[labels_BT != -100]
    close(layer(hidden_ND), expected)


class Capped(transformers.LlamaForCausalLM):
    def forward(self, **inputs: Any) -> Any:
        outputs = super().forward(**inputs)
        outputs.logits = outputs.logits.float().tanh()
        return outputs


def test_a_change_of_type_before_a_soft_cap_is_kept() -> None:
    model = llama(Capped)
    with torch.autocast("cpu", torch.bfloat16):
        hidden_ND, _, layer = label_states(model, *batch(model))
        assert layer(hidden_ND).dtype == torch.float32


def test_a_change_of_type_alone_leaves_a_plain_layer() -> None:
    model = llama()
    model.lm_head.forward = lambda hidden: F.linear(hidden.float(), model.lm_head.weight).float()
    assert label_states(model, *batch(model))[2].linear == (model.lm_head.weight, None)


def test_hooks_on_the_output_layer_are_called() -> None:
    model = llama()
    model.lm_head.register_forward_hook(lambda _module, _args, output: output * 0.5)
    check_model(model)


@pytest.mark.parametrize("make", MODELS)
def test_a_batch_without_labels_gives_zero(make: Callable[[], nn.Module]) -> None:
    model = make()
    inputs, labels_BT = batch(model)
    loss = vocabulary_loss(model, inputs, torch.full_like(labels_BT, -100))
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert label_log_probs(model, inputs, torch.full_like(labels_BT, -100)).shape == (0,)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("make", [llama, bert, gemma2])
def test_evaluation_needs_no_gradients(make: Callable[[], nn.Module], mode: Any) -> None:
    model = make()
    inputs, labels_BT = batch(model)
    expected, _ = model_reference(model, inputs, labels_BT)
    with mode():
        loss = vocabulary_loss(model, inputs, labels_BT, chunk_rows=3)
        actual = label_log_probs(model, inputs, labels_BT, chunk_rows=3)
    assert not loss.requires_grad
    close(loss, -expected.sum())
    close(actual, expected)


@pytest.mark.parametrize("make", MODELS)
def test_a_model_under_autocast_stays_within_bfloat16(make: Callable[[], nn.Module]) -> None:
    model = make()
    inputs, labels_BT = batch(model)
    expected, double = model_reference(model, inputs, labels_BT)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vocabulary_loss(model, inputs, labels_BT, chunk_rows=3)
    assert loss.dtype == torch.float32
    close(loss, -expected.sum(), atol=0.0, rtol=0.03)
    loss.backward()
    (-expected.sum()).backward()
    weight = model.get_output_embeddings().weight.grad.double()
    wanted = double.get_output_embeddings().weight.grad
    assert F.cosine_similarity(weight.flatten(), wanted.flatten(), dim=0) > 0.995


@pytest.mark.parametrize("function", [vocabulary_loss, label_log_probs])
@pytest.mark.parametrize("make", [llama, bert, gemma2, bart])
def test_the_logits_of_all_positions_are_never_there(
    make: Callable[[], nn.Module], function: Callable[..., Tensor]
) -> None:
    model = make()
    inputs, labels_BT = batch(model)
    inputs = {name: ids_BT.repeat(12, 1) for name, ids_BT in inputs.items()}
    labels_BT = labels_BT.repeat(12, 1)
    with Allocations() as made_of:
        function(model, inputs, labels_BT, chunk_rows=4).sum().backward()
    sizes = [torch.Size(shape).numel() for shape in made_of.shapes if V in shape]
    assert (
        max(sizes) <= model.get_output_embeddings().weight.numel() < (labels_BT != -100).sum() * V
    )


# ------------------------------------------------------------------------------------------- PEFT


def adapted(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = get_peft_model(llama(tied=False), LoraConfig(init_lora_weights=False, **options))
    return model.eval()


LINEARS = ["q_proj", "v_proj", "down_proj"]


def test_lora_on_the_output_layer_is_trained() -> None:
    model = adapted(target_modules=[*LINEARS, "lm_head"])
    assert logits_agree(model, batch(model)[0]) < 1e-5
    check_model(model)


def test_lora_elsewhere_leaves_the_output_layer_plain_and_frozen() -> None:
    model = adapted(target_modules=LINEARS)
    layer = label_states(model, *batch(model))[2]
    assert layer.linear is not None
    check_model(model)
    assert model.get_output_embeddings().weight.grad is None


def test_a_saved_copy_of_the_output_layer_is_trained_as_a_plain_one() -> None:
    model = adapted(target_modules=LINEARS, modules_to_save=["embed_tokens", "lm_head"])
    wrapper = model.get_output_embeddings()
    layer = label_states(model, *batch(model))[2]
    assert layer.linear is not None
    assert layer.linear[0] is wrapper.modules_to_save["default"].weight
    check_model(model)


def test_an_adapter_that_is_switched_off_leaves_a_plain_layer() -> None:
    model = adapted(target_modules=[*LINEARS, "lm_head"], modules_to_save=["embed_tokens"])
    inputs, labels_BT = batch(model)
    with model.disable_adapter():
        layer = label_states(model, inputs, labels_BT)[2]
        assert layer.linear is not None
        assert logits_agree(model, inputs) < 1e-5


@pytest.mark.parametrize("tied", [False, True])
def test_single_trained_tokens_get_their_gradients(*, tied: bool) -> None:
    torch.manual_seed(0)
    options = LoraConfig(target_modules=LINEARS, trainable_token_indices=[5, 9, 30])
    model = get_peft_model(llama(tied=tied), options).eval()
    for name, parameter in model.named_parameters():
        if "trainable_tokens" in name:
            nn.init.normal_(parameter)
    check_model(model)


# ------------------------------------------------------------------------------------------ errors


def test_a_model_without_a_vocabulary_is_refused() -> None:
    model = made(transformers.LlamaForSequenceClassification, transformers.LlamaConfig(**SMALL))
    inputs, labels_BT = batch(model)
    with pytest.raises(ConfigError, match="LlamaForSequenceClassification makes 0 tensors"):
        vocabulary_loss(model, inputs, labels_BT)


class Doubled(transformers.LlamaForCausalLM):
    def forward(self, **inputs: Any) -> Any:
        outputs = super().forward(**inputs)
        self.lm_head(torch.zeros(1, 1, 16))
        return outputs


def test_an_output_layer_that_is_called_twice_is_refused() -> None:
    model = llama(Doubled)
    with pytest.raises(ConfigError, match="in 2 calls of its output embeddings"):
        vocabulary_loss(model, *batch(model))


def test_positions_without_a_label_column_are_refused() -> None:
    model = llama()
    inputs, labels_BT = batch(model)
    with pytest.raises(ConfigError, match=r"feeds \(2, 7\) positions .* \(2, 6\)"):
        vocabulary_loss(model, inputs, labels_BT[:, :6])


def test_the_output_layer_is_restored_after_an_error() -> None:
    model = llama()
    with pytest.raises(ValueError, match="input_ids"):
        vocabulary_loss(model, {"nonsense": torch.zeros(1)}, torch.zeros(1))
    assert not model.lm_head._forward_hooks
    assert not model.lm_head._forward_pre_hooks


def test_comparing_logits_leaves_the_mode_of_every_module() -> None:
    model = llama().train()
    model.model.norm.eval()
    logits_agree(model, batch(model)[0])
    assert [m for m in model.modules() if not m.training] == [model.model.norm]


# --------------------------------------------------------------------------------------- compiling


@pytest.fixture
def compiled() -> Iterator[None]:
    compile_kernels(True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    compile_kernels(False)


COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.usefixtures("compiled")
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_the_compiled_softmax_says_the_same_without_compiling_again_and_again() -> None:
    hidden, weight, bias, labels = rows()
    expected, doubles = reference(hidden, weight, bias, labels)
    wanted = torch.autograd.grad(-expected.sum(), doubles)
    for chunk_rows in range(2, N + 1):
        if N % chunk_rows == 1:  # torch compiles for a size of 1 apart
            continue
        loss = cross_entropy_sum(hidden, weight, bias, labels, chunk_rows)
        gradients = torch.autograd.grad(loss, [hidden, weight, bias])
        close(loss, -expected.sum())
        for gradient, other in zip(gradients, wanted, strict=True):
            close(gradient, other)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.usefixtures("compiled")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [llama, gemma2])
def test_models_agree_with_a_compiled_softmax(make: Callable[[], nn.Module]) -> None:
    model = make()
    assert compiles_kernels()
    check_model(model)
    inputs, labels_BT = batch(model)
    loss = vocabulary_loss(model, inputs, torch.full_like(labels_BT, -100))
    assert loss.item() == 0
