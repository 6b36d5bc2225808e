"""The contract, the number, and what the options refuse."""

from collections.abc import Sequence
from typing import cast

import pytest
import torch
from ontogeny_focal.objective import FocalObjective

from ontogeny import ConfigError, compose
from ontogeny.objective import Loss, Objective
from ontogeny.plugins import registry
from ontogeny.testing import Trial, check_plugin, sample_rows, trial

ROWS = sample_rows([("text",)])


def loss_of(made: Trial, objective: Objective) -> Loss:
    examples = list(objective.prepare(ROWS, made.tokenizer))
    return objective.loss(made.bundle().model.eval(), objective.collate(examples))


def test_the_plugin_and_all_that_it_offers_keep_their_contracts() -> None:
    check_plugin("focal")


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_loss_is_equation_4_of_lin_et_al(gamma: float) -> None:
    with trial("objective", "focal", "pretraining", [f"objective.gamma={gamma}"]) as made:
        objective = cast("FocalObjective", made.component)
        batch = objective.collate(list(objective.prepare(ROWS, made.tokenizer)))
        labels_BT, mask_BT = batch.pop("labels"), batch["attention_mask"]
        model = made.bundle().model.eval()
        probs_BTV = model(**batch).logits.double().softmax(-1)
        probs_BT = probs_BTV.gather(-1, labels_BT.clamp(min=0)[..., None])[..., 0]
        expected_BT = -((1 - probs_BT) ** gamma) * probs_BT.log() * mask_BT
        loss = loss_of(made, objective)
        assert loss.total.item() == pytest.approx(expected_BT.sum().item(), rel=1e-5)
        assert loss.weight.item() == mask_BT.sum().item()


def test_gamma_0_is_plain_cross_entropy_to_the_last_bit() -> None:
    with trial("objective", "focal", "pretraining", ["objective.gamma=0"]) as made:
        plain = registry().get("objective", "clm").component
        expected = loss_of(made, plain.load()(plain.config()))
        loss = loss_of(made, cast("FocalObjective", made.component))
        assert torch.equal(loss.total, expected.total)
        assert torch.equal(loss.weight, expected.weight)
        assert torch.equal(loss.metrics["cross_entropy"], expected.total)


@pytest.mark.parametrize(
    ("overrides", "gamma"),
    [(["objective=focal"], 2.0), (["objective=focal_strong"], 5.0)],
)
def test_options_and_variants_compose(overrides: Sequence[str], gamma: float) -> None:
    stage = compose(overrides).stages["pretraining"]
    assert vars(stage.objective) == {"gamma": gamma}


@pytest.mark.parametrize("gamma", ["-1", "nan", "abc"])
def test_what_is_no_gamma_is_refused(gamma: str) -> None:
    with pytest.raises(ConfigError, match=r"objective\.gamma"):
        compose(["objective=focal", f"objective.gamma={gamma}"])
