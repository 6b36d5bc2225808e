"""The loss of answers: against a float64 reference, packed, weighted by p, and with noise."""
# B rows, T tokens, D width, V vocabulary

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ontogeny.attention import model_inputs
from ontogeny.data.collation import pad_row
from ontogeny.data.packing import pack
from ontogeny.errors import ConfigError
from ontogeny.objective import Example, Loss, Row
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.sft import SFT
from ontogeny_plugins.sft.named_templates import give_template
from ontogeny_plugins.sft.noise import noisy_embeddings, text_lengths
from ontogeny_plugins.sft.objective import SFTObjective

ROWS: list[Row] = [
    {"prompt": "What is 2 + 2?", "completion": "It is 4."},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "A longer question, with an ümlaut?"},
            {"role": "assistant", "content": "Yes, 日本語 and 🙂."},
        ]
    },
    {"prompt": "?", "completion": "!"},
    {"text": "Plain text, trained whole."},
]


def tokenizer() -> Any:
    made = byte_tokenizer()
    give_template(made, "chatml")
    return made


def examples() -> list[Example]:
    return list(SFTObjective(SFT()).prepare(ROWS, tokenizer()))


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    common: dict[str, Any] = {**sizes, "vocab_size": len(tokenizer()), "num_hidden_layers": 2}
    built: dict[str, PreTrainedModel] = {
        "llama": LlamaForCausalLM(LlamaConfig(**common)),
        "gpt2": GPT2LMHeadModel(
            GPT2Config(vocab_size=common["vocab_size"], n_embd=32, n_layer=2, n_head=2)
        ),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**common, num_key_value_heads=1, head_dim=16)),
    }
    return {name: model.double().eval() for name, model in built.items()}


every_model = pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])


def log_probabilities(model: PreTrainedModel, example: Example) -> list[float]:
    """Return log p of each trained token of one row alone, from float64 logits of the model."""
    ids_1T = torch.from_numpy(example["input_ids"].astype(np.int64))[None]
    with torch.no_grad():
        logits_TV = model(input_ids=ids_1T).logits[0]
    return [
        float(logits_TV[place, label] - torch.logsumexp(logits_TV[place], 0))
        for place, label in enumerate(example["labels"].tolist())
        if label != -100
    ]


def differentiable_loss(model: PreTrainedModel, rows: list[Example], **options: Any) -> Loss:
    objective = SFTObjective(SFT(**options))
    return objective.loss(model, objective.collate(rows))


def loss(model: PreTrainedModel, rows: list[Example], **options: Any) -> Loss:
    with torch.no_grad():
        return differentiable_loss(model, rows, **options)


@every_model
def test_the_loss_is_that_of_a_float64_reference_row_by_row(
    name: str, models: dict[str, PreTrainedModel]
) -> None:
    reference = [log_probabilities(models[name], example) for example in examples()]
    found = loss(models[name], examples())
    assert float(found.total) == pytest.approx(-math.fsum(map(math.fsum, reference)), rel=1e-12)
    assert int(found.weight) == sum(map(len, reference))


@every_model
def test_packed_rows_have_the_loss_of_unpacked_ones(
    name: str, models: dict[str, PreTrainedModel]
) -> None:
    alone = sum(float(loss(models[name], [row]).total) for row in examples())
    packed = loss(models[name], [pad_row(pack(examples()), 320)])
    assert float(packed.total) == pytest.approx(alone, rel=1e-12)


def test_packed_rows_have_the_loss_of_unpacked_ones_in_float32(
    models: dict[str, PreTrainedModel],
) -> None:
    model = LlamaForCausalLM(models["llama"].config).float().eval()
    model.load_state_dict(models["llama"].state_dict())
    alone = sum(float(loss(model, [row]).total) for row in examples())
    packed = loss(model, [pad_row(pack(examples()), 320)])
    assert float(packed.total) == pytest.approx(alone, rel=1e-6)


def test_prompts_have_no_part_in_the_loss(models: dict[str, PreTrainedModel]) -> None:
    (made,) = SFTObjective(SFT()).prepare(ROWS[:1], tokenizer())
    answer = [*tokenizer()("It is 4.")["input_ids"], tokenizer().eos_token_id]
    assert made["labels"][made["labels"] != -100].tolist() == answer
    assert int(loss(models["llama"], [made]).weight) == len(answer)


def test_padding_that_shares_its_id_with_the_end_hides_no_end_of_an_answer(
    models: dict[str, PreTrainedModel],
) -> None:
    same = tokenizer()
    same.pad_token = same.eos_token  # as in SmolLM2
    short, long = list(SFTObjective(SFT()).prepare([ROWS[2], ROWS[1]], same))
    both = SFTObjective(SFT()).collate([short, long])
    ends = (both["labels"] == same.eos_token_id).sum(1).tolist()
    assert ends == [1, 2]


# --------------------------------------------------------------------------- dynamic fine-tuning


def test_dynamic_fine_tuning_weights_each_token_by_its_probability(
    models: dict[str, PreTrainedModel],
) -> None:
    model = models["llama"]
    logs = [log for example in examples() for log in log_probabilities(model, example)]
    found = loss(model, examples(), loss="dft")
    expected = -math.fsum(math.exp(log) * log for log in logs)
    assert float(found.total) == pytest.approx(expected, rel=1e-12)
    assert float(found.metrics["nats_per_token"]) == pytest.approx(-math.fsum(logs), rel=1e-12)


def test_the_weights_of_dynamic_fine_tuning_have_no_gradient(
    models: dict[str, PreTrainedModel],
) -> None:
    model, (row, *_) = models["llama"], examples()
    weight = model.get_output_embeddings().weight

    def gradient(total: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        total.backward()
        return weight.grad.clone()

    batch = SFTObjective(SFT()).collate([row])
    logits_TV = model(**model_inputs(model, batch)).logits[0]
    kept_T = batch["labels"][0] != -100
    labels_N = batch["labels"][0][kept_T]
    log_probs_N = logits_TV[kept_T].log_softmax(-1).gather(-1, labels_N[:, None]).squeeze(-1)
    expected = gradient(-(log_probs_N.exp().detach() * log_probs_N).sum())
    torch.testing.assert_close(
        gradient(differentiable_loss(model, [row], loss="dft").total), expected
    )


# ---------------------------------------------------------------------------------------- noise


def llama(models: dict[str, PreTrainedModel], *, training: bool) -> PreTrainedModel:
    return models["llama"].train(training)


def test_noise_has_the_size_of_the_paper_for_each_text(
    models: dict[str, PreTrainedModel],
) -> None:
    rows = [pad_row(pack(examples()[:2]), 240), pad_row(pack(examples()[2:]), 240)]
    batch = SFTObjective(SFT()).collate(rows)
    model, alpha, width = models["llama"], 5.0, 32
    torch.manual_seed(0)
    noise_BTD = noisy_embeddings(model, batch, alpha) - model.get_input_embeddings()(
        batch["input_ids"]
    )
    place = 0
    for example in examples()[:2]:
        length = len(example["input_ids"])
        largest = alpha / math.sqrt(length * width)
        noise = noise_BTD[0, place : place + length].detach()
        assert 0.98 * largest < float(noise.abs().max()) <= largest
        # The variance of U(-a, a) is a² / 3.
        assert float(noise.std()) == pytest.approx(largest / math.sqrt(3), rel=0.05)
        place += length


def test_the_length_of_a_text_does_not_count_padding() -> None:
    rows = SFTObjective(SFT()).collate(examples())
    expected = [len(example["input_ids"]) for example in examples()]
    assert text_lengths(rows)[:, 0].tolist() == expected
    (alone,) = text_lengths(SFTObjective(SFT()).collate(examples()[:1])).unique().tolist()
    assert alone == expected[0]


def test_noise_is_drawn_from_torchs_generator_while_training_alone(
    models: dict[str, PreTrainedModel],
) -> None:
    def losses(*, training: bool) -> list[float]:
        found = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            model = llama(models, training=training)
            found.append(float(loss(model, examples(), neftune_alpha=10.0).total))
        model.eval()
        return found

    first, again, other = losses(training=True)
    assert first == again != other
    without = float(loss(models["llama"], examples()).total)
    assert losses(training=False) == [without] * 3


def test_noise_of_nothing_changes_nothing(models: dict[str, PreTrainedModel]) -> None:
    model = llama(models, training=True)
    tiny = float(loss(model, examples(), neftune_alpha=1e-12).total)
    assert tiny == pytest.approx(float(loss(model.eval(), examples()).total), rel=1e-9)


# ---------------------------------------------------------------------------------------- refusals


def test_an_encoder_with_a_decoder_is_told_its_objective() -> None:
    config = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    with pytest.raises(
        ConfigError, match=r"this objective gives the decoder nothing: choose .* objective=seq2seq"
    ):
        loss(T5ForConditionalGeneration(config), examples())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_on": "first"}, "objective.loss_on is 'first'; expected one of assistant, last"),
        ({"loss": "nll"}, "objective.loss is 'nll'; expected one of cross_entropy, dft"),
        ({"neftune_alpha": -1.0}, "objective.neftune_alpha is -1.0; expected 0 or more"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SFT(**options)
