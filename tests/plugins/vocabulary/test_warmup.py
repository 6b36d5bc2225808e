"""The staged warm-up: which weights move at which step, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import lightning as L
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ontogeny import ConfigError
from ontogeny.adapter import Bundle
from ontogeny.data.corpus import Corpus
from ontogeny.head import Head
from ontogeny.lightning_module import TrainingModule
from ontogeny.objective import Batch, Loss, Objective
from ontogeny.optimization import optimizer_factory
from ontogeny.options import SGD, AdamW, Schedule
from ontogeny_plugins.vocabulary import Vocabulary
from ontogeny_plugins.vocabulary.adapter import VocabularyAdapter

NEW = 12
Weights = dict[str, Tensor]


class NextToken(Objective):
    """A plain one, on batches of ids."""

    def prepare(self, rows: Any, tokenizer: Any) -> Any:
        raise NotImplementedError

    def collate(self, examples: Any) -> Any:
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        ids = batch["input_ids"]
        total = model(input_ids=ids, labels=ids).loss * ids[:, 1:].numel()
        return Loss(total, torch.tensor(ids[:, 1:].numel()))


class Plain(Head):
    def load(self, model: Any, tokenizer: Any) -> PreTrainedModel:
        raise NotImplementedError


class Notes(L.Callback):
    """Copies all weights before the first step and after each."""

    def __init__(self) -> None:
        self.weights: list[Weights] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.weights:
            self._note(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._note(pl_module)

    def _note(self, module: Any) -> None:
        named = module.model.named_parameters()
        self.weights.append({name: value.detach().clone() for name, value in named})


def build(rows: int, *, tied: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = LlamaConfig(
        **sizes, num_attention_heads=2, vocab_size=rows, tie_word_embeddings=tied, pad_token_id=None
    )
    return LlamaForCausalLM(config)


def low_rank(model: PreTrainedModel) -> None:
    """Freeze a model under LoRA, as an adapter that applies later does."""
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], init_lora_weights=False), model)


def train(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    warmup: list[int],
    *,
    steps: int = 5,
    tied: bool = False,
    optimizer: object = None,
    then: Callable[[PreTrainedModel], None] = lambda _: None,
    accumulate: int = 1,
) -> tuple[int, list[Weights]]:
    """Return the first new id, and the weights before the first step and after each."""
    adapter = VocabularyAdapter(Vocabulary(size=NEW, warmup=warmup))
    adapter.extend(tokenizer, corpus)
    model = build(len(tokenizer) + NEW + 3, tied=tied)
    bundle = adapter.apply(Bundle(model, tokenizer, Plain()))
    then(bundle.model)
    groups = list(adapter.parameter_groups(bundle))
    given = optimizer or AdamW(lr=0.01, fused=False, weight_decay=0.5)
    make = optimizer_factory(given, Schedule(), steps, groups)
    module = TrainingModule(bundle.model, NextToken(), make, seed=0, clip=1.0)
    generator = torch.Generator().manual_seed(1)
    shape = (steps, accumulate, 2, 16)
    ids = torch.randint(0, len(tokenizer) + NEW, shape, generator=generator)
    batches = [[{"input_ids": part} for part in step] for step in ids]
    notes = Notes()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*adapter.callbacks(bundle, steps), notes],
    )
    trainer.fit(module, DataLoader[Any](batches, batch_size=None))
    return len(tokenizer), notes.weights


def moved(before: Weights, after: Weights, first: int) -> set[str]:
    """Return which parts of the model differ: rows old, new and of padding; the body; LoRA."""
    found = set()
    for name, old in before.items():
        new = after[name]
        parts: dict[str, slice] = {"lora" if "lora" in name else "body": slice(None)}
        if "embed_tokens" in name or "lm_head" in name:
            stop = first + NEW
            parts = {
                "old": slice(first),
                "new": slice(first, stop),
                "padding": slice(stop, None),
            }
        found |= {part for part, rows in parts.items() if not torch.equal(old[rows], new[rows])}
    return found


def stages(first: int, weights: Sequence[Weights]) -> list[set[str]]:
    return [moved(before, after, first) for before, after in pairwise(weights)]


ROWS = {"old", "new", "padding"}
Optimizer = Callable[[], object]
OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": partial(AdamW, lr=0.01, weight_decay=0.5),
    "adamw_unfused": partial(AdamW, lr=0.01, weight_decay=0.5, fused=False),
    "sgd": partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.5),
}
Make = Callable[[str], PreTrainedTokenizerBase]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_then_all_embeddings_then_everything(
    name: str, tied: bool, corpus: Corpus, tokenizer: Make
) -> None:
    given = tokenizer("byte_level")
    optimizer = OPTIMIZERS[name]()
    first, weights = train(corpus, given, [2, 2], tied=tied, optimizer=optimizer)
    assert stages(first, weights) == [{"new"}, {"new"}, ROWS, ROWS, {*ROWS, "body"}]


def test_without_a_warmup_everything_learns_and_decays_from_the_first_step(
    corpus: Corpus, tokenizer: Make
) -> None:
    first, weights = train(corpus, tokenizer("byte_level"), [0, 0], steps=1)
    assert stages(first, weights) == [{*ROWS, "body"}]
    adapter = VocabularyAdapter(Vocabulary(size=NEW))
    adapter.extend(tokenizer("byte_level"), corpus)
    model = build(first, tied=False)
    bundle = adapter.apply(Bundle(model, tokenizer("byte_level"), Plain()))
    assert not list(adapter.parameter_groups(bundle))
    assert not list(adapter.callbacks(bundle, 1))


def test_accumulated_gradients_of_old_rows_are_held_back_too(
    corpus: Corpus, tokenizer: Make
) -> None:
    first, weights = train(corpus, tokenizer("byte_level"), [2, 0], steps=3, accumulate=3)
    assert stages(first, weights) == [{"new"}, {"new"}, {*ROWS, "body"}]


def test_lora_and_new_rows_learn_together(corpus: Corpus, tokenizer: Make) -> None:
    first, weights = train(corpus, tokenizer("byte_level"), [0, 0], steps=4, then=low_rank)
    assert stages(first, weights) == [{"new", "lora"}] * 4
    first, weights = train(
        corpus, tokenizer("byte_level"), [0, 0], steps=2, then=low_rank, tied=True
    )
    assert stages(first, weights) == [{"new", "lora"}] * 2


def test_lora_waits_for_the_warmup(corpus: Corpus, tokenizer: Make) -> None:
    first, weights = train(corpus, tokenizer("byte_level"), [2, 0], steps=4, then=low_rank)
    assert stages(first, weights) == [{"new"}] * 2 + [{"new", "lora"}] * 2


def test_old_rows_beside_lora_go_on_learning_once_they_have_begun(
    corpus: Corpus, tokenizer: Make
) -> None:
    first, weights = train(corpus, tokenizer("byte_level"), [1, 1], steps=4, then=low_rank)
    assert stages(first, weights) == [{"new"}, ROWS, {*ROWS, "lora"}, {*ROWS, "lora"}]


def test_a_warmup_longer_than_the_run_is_refused(corpus: Corpus, tokenizer: Make) -> None:
    told = r"adapter.vocabulary.warmup is \[3, 3\], 6 steps in all; expected no more than the run"
    with pytest.raises(ConfigError, match=told):
        train(corpus, tokenizer("byte_level"), [3, 3], steps=5)


def test_rows_in_pieces_are_refused(corpus: Corpus, tokenizer: Make) -> None:
    def cut(model: PreTrainedModel) -> None:
        weight: Any = model.get_input_embeddings().weight
        weight.data = weight.data[:5].flatten()

    with pytest.raises(ConfigError, match=r"gradients of single rows, which SingleDeviceStrategy"):
        train(corpus, tokenizer("byte_level"), [1, 0], then=cut)
