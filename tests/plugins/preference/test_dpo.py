"""DPO on models: one row with two branches against two rows, references, weights of tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.plugins.preference.conftest import annotated, batch_of, small_llama
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ontogeny.data.collation import pad_row
from ontogeny.data.packing import pack
from ontogeny.errors import ConfigError, RowError
from ontogeny.objective import Batch, Loss, Row
from ontogeny_plugins.preference import CPO, DPO, ORPO, SimPO
from ontogeny_plugins.preference.dpo import DPOObjective
from ontogeny_plugins.preference.reference_free import (
    CPOObjective,
    ORPOObjective,
    SimPOObjective,
)


def total(objective: Any, model: Any, batch: Batch) -> float:
    with torch.no_grad():
        return float(objective.loss(model, batch).total)


def gradients(model: Any) -> list[torch.Tensor]:
    found = [each.grad.clone() for each in model.parameters() if each.grad is not None]
    model.zero_grad()
    return found


def sums_by_hand(model: Any, row: Row, side: str, tokenizer: Any) -> torch.Tensor:
    """Return Σ log p of an answer, with the eos token, from the model's own logits."""
    prompt = tokenizer(row["prompt"], add_special_tokens=False).input_ids
    answer = [*tokenizer(row[side], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits.double().log_softmax(-1)[0]
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return torch.stack([log_probs[place, ids[0, place + 1]] for place in places]).sum()


def test_the_loss_is_that_of_the_formula_on_the_models_own_logits(
    policy: Any, reference: Any, rows: list[Row], tokenizer: Any
) -> None:
    objective = DPOObjective(DPO(beta=0.3))
    loss = objective.loss(policy, batch_of(objective, rows, tokenizer, reference))
    expected = 0.0
    for row in rows:
        ratios = [
            sums_by_hand(policy, row, side, tokenizer)
            - sums_by_hand(reference, row, side, tokenizer)
            for side in ("chosen", "rejected")
        ]
        expected -= float(torch.nn.functional.logsigmoid(0.3 * (ratios[0] - ratios[1])))
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(loss.weight) == len(rows)


MODELS = {
    "llama": lambda _: small_llama(1),
    "gpt2": lambda size: GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    ),
    "qwen3": lambda size: Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            initializer_range=0.2,
        )
    ),
}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_shared_prompt_changes_neither_loss_nor_gradient(
    family: str, packed: bool, reference: Any, rows: list[Row], tokenizer: Any
) -> None:
    model = MODELS[family](len(tokenizer)).eval()
    found: list[tuple[Loss, list[torch.Tensor]]] = []
    for share in (True, False):
        objective = DPOObjective(DPO(share_prompt=share))
        examples = annotated(objective, list(objective.prepare(rows, tokenizer)), reference)
        if packed and share:
            row = pack(examples)
            examples = [pad_row(row, len(row["input_ids"]) + 3)]
        loss = objective.loss(model, objective.collate(examples))
        loss.total.backward()
        found.append((loss, gradients(model)))
    (shared, of_shared), (apart, of_apart) = found
    assert float(shared.total.detach()) == pytest.approx(float(apart.total.detach()), rel=1e-5)
    assert float(shared.weight) == float(apart.weight) == len(rows)
    for one, other in zip(of_shared, of_apart, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * float(other.abs().max() + 1))


def test_the_prompt_of_a_pair_is_computed_once(rows: list[Row], tokenizer: Any) -> None:
    examples = list(DPOObjective(DPO()).prepare(rows, tokenizer))
    for row, example in zip(rows, examples, strict=True):
        bytes_of = [len(str(row[name])) for name in ("prompt", "chosen", "rejected")]
        # The last token of the prompt twice; the eos token of each answer is only predicted.
        assert len(example["input_ids"]) == sum(bytes_of) + 1
        assert int((example["branch_ids"] == 0).sum()) == bytes_of[0] - 1


def test_ld_dpo_weighs_the_tokens_that_only_one_answer_has(
    policy: Any, reference: Any, tokenizer: Any
) -> None:
    row: Row = {"prompt": "Say: ", "chosen": "abcdef", "rejected": "xy"}
    whole, none = (
        DPOObjective(DPO(ld_alpha=alpha, divergence="reverse_kl")) for alpha in (None, 0.0)
    )
    batch = batch_of(whole, [row], tokenizer, reference)
    everything = DPOObjective(DPO(ld_alpha=1.0))
    assert total(everything, policy, batch) == pytest.approx(total(whole, policy, batch))
    # Of the chosen answer only as many tokens count as the rejected one has: x, y and the end.
    log_probs = []
    for model in (policy, reference):
        ids = torch.tensor([tokenizer("Say: abcdef", add_special_tokens=False).input_ids])
        first = len("Say: ")
        with torch.no_grad():
            scores = model(input_ids=ids).logits.double().log_softmax(-1)[0]
        log_probs.append(sum(scores[t - 1, ids[0, t]] for t in range(first, first + 3)))
    rejected = [sums_by_hand(model, row, "rejected", tokenizer) for model in (policy, reference)]
    margin = (log_probs[0] - log_probs[1]) - (rejected[0] - rejected[1])
    expected = -float(torch.nn.functional.logsigmoid(0.1 * margin))
    assert total(none, policy, batch) == pytest.approx(expected, rel=1e-5)


def test_wpo_weighs_pairs_by_how_likely_the_model_writes_them(
    policy: Any, reference: Any, rows: list[Row], tokenizer: Any
) -> None:
    row = rows[0]
    plain, weighted = DPOObjective(DPO()), DPOObjective(DPO(wpo=True))
    batch = batch_of(plain, [row], tokenizer, reference)
    ratio = total(weighted, policy, batch) / total(plain, policy, batch)
    expected = 0.0
    for side in ("chosen", "rejected"):
        prompt = tokenizer(row["prompt"], add_special_tokens=False).input_ids
        answer = [*tokenizer(row[side], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            scores = policy(input_ids=torch.tensor([[*prompt, *answer]])).logits.double()[0]
        scores = scores.log_softmax(-1)[len(prompt) - 1 : -1]
        own = scores[range(len(answer)), answer]
        expected += float((own - (2 * scores).exp().sum(-1).log()).mean())
    assert ratio == pytest.approx(math.exp(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("objective", "formula"),
    [
        (
            SimPOObjective(SimPO(beta=2.0, gamma=0.5)),
            lambda c, r, n, m: -math.log(1 / (1 + math.exp(-(2 * (c / n - r / m) - 0.5)))),
        ),
        (
            CPOObjective(CPO(beta=0.2, alpha=0.7)),
            lambda c, r, n, _: math.log(1 + math.exp(-0.2 * (c - r))) - 0.7 * c / n,
        ),
        (
            ORPOObjective(ORPO(beta=0.3)),
            lambda c, r, n, m: (
                -c / n
                + 0.3
                * math.log(
                    1
                    + math.exp(
                        -(
                            math.log(math.exp(c / n) / (1 - math.exp(c / n)))
                            - math.log(math.exp(r / m) / (1 - math.exp(r / m)))
                        )
                    )
                )
            ),
        ),
    ],
)
def test_losses_without_a_reference_equal_their_formulas(
    objective: Any, formula: Any, policy: Any, rows: list[Row], tokenizer: Any
) -> None:
    batch = objective.collate(list(objective.prepare(rows, tokenizer)))
    expected = 0.0
    for row in rows:
        sums = [
            float(sums_by_hand(policy, row, side, tokenizer)) for side in ("chosen", "rejected")
        ]
        counts = [len(str(row[side])) + 1 for side in ("chosen", "rejected")]
        expected += formula(*sums, *counts)
    assert total(objective, policy, batch) == pytest.approx(expected, rel=1e-5)


def proofs_of(model: Any, tokenizer: Any, rows: list[Row], share: bool = True) -> dict[str, Any]:
    objective = DPOObjective(DPO(share_prompt=share))
    batch: Batch = batch_of(objective, rows, tokenizer, model)
    return {proof.name: proof for proof in objective.proofs(model, batch)}


def test_the_preflight_proves_the_shared_prompt_and_the_closed_form(
    policy: Any, rows: list[Row], tokenizer: Any
) -> None:
    proofs = proofs_of(policy, tokenizer, rows)
    assert proofs["a shared prompt changes no log-probability"].holds
    start = proofs["the loss starts at its closed form"]
    assert start.holds
    assert start.evidence.startswith("0.693147, expected 0.693147")


def test_a_window_shorter_than_the_row_is_refused_with_the_way_out(
    rows: list[Row], tokenizer: Any
) -> None:
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    )
    model = Gemma3ForCausalLM(config).eval()
    with pytest.raises(ConfigError, match=r"looks back 8 tokens.*objective\.share_prompt=false"):
        proofs_of(model, tokenizer, rows)
    apart = proofs_of(model, tokenizer, rows, share=False)
    assert apart["the loss starts at its closed form"].holds


def test_a_model_without_attention_trains_with_rows_of_their_own(
    rows: list[Row], tokenizer: Any
) -> None:
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=16, state_size=4, num_hidden_layers=1
    )
    model = MambaForCausalLM(config).eval()
    objective = DPOObjective(DPO(share_prompt=False))
    batch = batch_of(objective, rows, tokenizer, model)
    assert total(objective, model, batch) == pytest.approx(3 * math.log(2), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rejected": "Water that runs."}, "chosen and rejected are the same"),
        ({"chosen": "  "}, "chosen: the answer is empty"),
        ({"chosen": [{"role": "assistant", "content": "a"}]}, "chosen: turns need a chat template"),
    ],
)
def test_pairs_that_say_nothing_are_refused(
    changes: dict[str, Any], told: str, rows: list[Row], tokenizer: Any
) -> None:
    with pytest.raises(RowError) as error:
        list(DPOObjective(DPO()).prepare([{**rows[0], **changes}], tokenizer))
    assert told in error.value.reason


def test_a_prompt_that_is_not_given_is_what_both_begin_with(tokenizer: Any) -> None:
    given: Row = {"prompt": "Say it:", "chosen": " yes please", "rejected": " no"}
    implicit: Row = {"chosen": "Say it: yes please", "rejected": "Say it: no"}
    objective = DPOObjective(DPO())
    one, other = (next(iter(objective.prepare([row], tokenizer))) for row in (given, implicit))
    for name in ("input_ids", "labels", "branch_ids"):
        assert one[name].tolist() == other[name].tolist()


def test_a_conversation_is_preferred_after_the_turns_that_both_share(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    turns = [{"role": "user", "content": "Hi"}]
    sides = {"chosen": "Hello.", "rejected": "Go."}
    answers = {name: [{"role": "assistant", "content": text}] for name, text in sides.items()}
    given: Row = {"prompt": turns, **answers}
    implicit: Row = {name: [*turns, *answer] for name, answer in answers.items()}
    plain: Row = {"prompt": "Hi", **sides}
    objective = DPOObjective(DPO())
    found = [next(iter(objective.prepare([row], tokenizer))) for row in (given, implicit, plain)]
    for name in ("input_ids", "labels", "branch_ids"):
        assert found[0][name].tolist() == found[1][name].tolist() == found[2][name].tolist()
    shared = int((found[0]["branch_ids"] == 0).sum())
    text = tokenizer.decode(found[0]["input_ids"][: shared + 1])
    assert text.endswith("<user>Hi" + tokenizer.eos_token + "<assistant>")


def test_unknown_options_are_told() -> None:
    for values, told in [
        ({"loss": "sigmod"}, r"objective\.loss is 'sigmod'"),
        ({"mix": {"nothing": 1.0}}, r"objective\.mix"),
        ({"loss": "exo"}, r"infinite; set it to 0\.001"),
        ({"sync_every": 3}, "objective.reference=frozen"),
        ({"beta": 0.0}, r"objective\.beta is 0\.0"),
    ]:
        with pytest.raises(ConfigError, match=told):
            DPO(**values)
