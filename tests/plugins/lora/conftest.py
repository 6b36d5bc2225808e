"""Tiny models with random weights, and what tests of adapters do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from ontogeny.adapter import Adapter, Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.plugins import registry
from ontogeny.seeding import seed_everything
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.causal_lm import CausalLM
from ontogeny_plugins.causal_lm.head import CausalLMHead

VOCABULARY = 259  # of the byte tokenizer
Logits = Callable[[PreTrainedModel], Tensor]
Train = Callable[..., list[float]]
Apply = Callable[..., Adapter]


def llama() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,  # large enough that rounding errors show
    )
    return LlamaForCausalLM(config)


def gpt2() -> PreTrainedModel:
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **dropouts, **ids))


def bert() -> PreTrainedModel:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForMaskedLM(config)


FAMILIES = {"llama": llama, "gpt2": gpt2, "bert": bert}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: these models are too small to gain from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bundle_of() -> Callable[[str], Bundle]:
    """Return a function that makes a bundle of a family, with the same weights every time."""

    def make(family: str = "llama") -> Bundle:
        seed_everything("weights")
        return Bundle(FAMILIES[family](), byte_tokenizer(), CausalLMHead(CausalLM()))

    return make


@pytest.fixture
def bundle(bundle_of: Callable[[str], Bundle]) -> Bundle:
    """Return a tiny Llama with its tokenizer and head."""
    return bundle_of("llama")


@pytest.fixture
def base(tmp_path: Path, bundle: Bundle) -> Path:
    """Return the checkpoint of the tiny Llama."""
    return save_checkpoint(bundle, tmp_path / "base", {"stage": "pretraining"})


@pytest.fixture
def apply() -> Apply:
    """Return a function that builds an adapter out of its options and puts it into a bundle."""

    def put(options: object, bundle: Bundle) -> Adapter:
        adapter = registry().build(options)
        assert isinstance(adapter, Adapter)
        seed_everything("adapter")
        assert adapter.apply(bundle) is bundle
        return adapter

    return put


@pytest.fixture
def ids_BT() -> Tensor:  # noqa: N802  a tensor carries its shape
    """Return two rows of sixteen random tokens."""
    return torch.randint(VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def logits(ids_BT: Tensor) -> Logits:
    """Return a function that computes a model's logits in eval mode."""

    def compute(model: PreTrainedModel) -> Tensor:
        training = model.training
        with torch.no_grad():
            found: Tensor = model.eval()(ids_BT).logits
        model.train(training)
        return found

    return compute


@pytest.fixture
def train(ids_BT: Tensor) -> Train:
    """Return a function that makes steps of SGD on the fixture's tokens; it returns the losses."""

    def fit(bundle: Bundle, steps: int = 2, lr: float = 0.1) -> list[float]:
        model = bundle.model.train()
        trained = [each for each in model.parameters() if each.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=lr)
        losses = []
        for _ in range(steps):
            output = model(ids_BT).logits.flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(output, ids_BT.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    return fit
