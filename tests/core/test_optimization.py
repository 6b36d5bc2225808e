"""Parameter groups, and an optimiser and a schedule out of their options."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ontogeny.adapter import ParameterGroup
from ontogeny.errors import ConfigError
from ontogeny.optimization import Rates, optimizer_factory, parameter_groups
from ontogeny.options import SGD, AdamW, Schedule
from ontogeny.schedule import factor

RATES = Rates(lr=1.0, weight_decay=0.1)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def names_of(model: nn.Module, group: dict[str, object]) -> set[str]:
    chosen = {id(parameter) for parameter in group["params"]}  # type: ignore[attr-defined]
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


def test_matrices_are_decayed_and_vectors_are_not(model: nn.Module) -> None:
    matrices, vectors = parameter_groups(model, RATES)
    assert names_of(model, matrices) == {"0.weight", "2.weight"}
    assert matrices["weight_decay"] == 0.1
    assert names_of(model, vectors) == {"1.weight", "1.bias", "2.bias"}
    assert vectors["weight_decay"] == 0.0


def test_tied_weights_stand_in_one_group_once() -> None:
    tied = nn.ModuleDict({"embed": nn.Embedding(5, 4), "out": nn.Linear(4, 5, bias=False)})
    tied["out"].weight = tied["embed"].weight
    (group,) = parameter_groups(tied, RATES)
    assert len(group["params"]) == 1  # type: ignore[arg-type]


def test_frozen_parameters_are_left_out(model: nn.Module) -> None:
    model[0].requires_grad_(requires_grad=False)  # type: ignore[index]
    groups = parameter_groups(model, RATES)
    trained = set().union(*(names_of(model, group) for group in groups))
    assert trained == {"1.weight", "1.bias", "2.weight", "2.bias"}


def test_a_model_with_nothing_to_train_is_an_error(model: nn.Module) -> None:
    model.requires_grad_(requires_grad=False)
    with pytest.raises(ConfigError, match="no parameter of the model is trainable"):
        parameter_groups(model, RATES)


def test_a_group_without_parameters_is_left_out() -> None:
    assert len(parameter_groups(nn.Linear(3, 2, bias=False), RATES)) == 1


def test_adamw_takes_all_of_its_options(model: nn.Module) -> None:
    options = AdamW(lr=0.5, betas=(0.8, 0.7), eps=1e-5, weight_decay=0.3, fused=False)
    optimizer, _ = optimizer_factory(options, Schedule(warmup_steps=0), 10)(model)
    assert type(optimizer) is torch.optim.AdamW
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    for group in optimizer.param_groups:
        assert (group["lr"], tuple(group["betas"]), group["eps"]) == (0.5, (0.8, 0.7), 1e-5)


def test_the_first_step_of_adamw_is_the_papers(model: nn.Module) -> None:
    options = AdamW(lr=0.01, weight_decay=0.1)
    optimizer, _ = optimizer_factory(options, Schedule(warmup_steps=0), 10)(model)
    weight = model[2].weight  # type: ignore[index]
    before, weight.grad = weight.detach().clone(), torch.full_like(weight, 3.0)
    optimizer.step()
    # Loshchilov & Hutter 2019, algorithm 2 at t = 1: m̂ / (√v̂ + ε) is the gradient's sign
    expected = before - 0.01 * (3.0 / (3.0 + 1e-8)) - 0.01 * 0.1 * before
    torch.testing.assert_close(weight.detach(), expected)


def test_sgd_is_built_with_its_momentum(model: nn.Module) -> None:
    optimizer, _ = optimizer_factory(SGD(lr=0.2, momentum=0.5), Schedule(), 10)(model)
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["momentum"] == 0.5


def test_an_optimizer_of_torch_can_be_named_by_its_target(model: nn.Module) -> None:
    options = {"_target_": "torch.optim.Adamax", "lr": 0.3, "weight_decay": 0.2}
    optimizer, _ = optimizer_factory(options, Schedule(), 10)(model)
    assert type(optimizer) is torch.optim.Adamax
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]


def test_the_learning_rate_follows_the_schedule(model: nn.Module) -> None:
    schedule = Schedule(shape="linear", warmup_steps=2)
    optimizer, scheduler = optimizer_factory(AdamW(lr=0.5), schedule, 6)(model)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5 * factor(schedule, step, 6) for step in range(6)])


def test_a_schedule_of_torch_can_be_named_by_its_target(model: nn.Module) -> None:
    options = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.5}
    optimizer, scheduler = optimizer_factory(AdamW(lr=0.8), options, 6)(model)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (AdamW(lr=-1.0), "optimizer: Invalid learning rate: -1.0"),
        ({"_target_": "torch.optim.AdamW", "lrr": 1.0}, "optimizer: .*unexpected keyword .*'lrr'"),
        ({"_target_": "torch.optim.Nothing"}, "optimizer: .*torch.optim.Nothing"),
    ],
)
def test_an_optimizer_that_cannot_be_built_is_one_line(
    options: object, words: str, model: nn.Module
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        optimizer_factory(options, Schedule(), 10)(model)
    assert "\n" not in str(caught.value)


def test_a_schedule_that_cannot_be_built_is_one_line(model: nn.Module) -> None:
    options = {"_target_": "torch.optim.lr_scheduler.StepLR"}
    with pytest.raises(ConfigError, match=r"scheduler: .*step_size") as caught:
        optimizer_factory(AdamW(), options, 10)(model)
    assert "\n" not in str(caught.value)


class Tied(nn.Module):
    """A model with embeddings, as transformers names them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(5, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def rates_of(
    model: nn.Module, *own: ParameterGroup, **rates: float
) -> dict[str, tuple[float, float]]:
    groups = parameter_groups(model, Rates(**{"lr": 1.0, "weight_decay": 0.1, **rates}), own)
    return {
        name: (group["lr"], group["weight_decay"])  # type: ignore[misc]
        for group in groups
        for name in names_of(model, group)
    }


def test_embeddings_may_have_a_learning_rate_of_their_own() -> None:
    rates = rates_of(Tied(), embedding_lr=0.25)
    assert rates["embed.weight"] == rates["head.weight"] == (0.25, 0.1)
    assert rates["body.weight"] == (1.0, 0.1)
    assert rates["body.bias"] == (1.0, 0.0)


def test_a_rate_for_embeddings_that_are_not_trained_is_an_error() -> None:
    model = Tied()
    for name in ("embed.weight", "head.weight"):
        model.weights[name].requires_grad_(requires_grad=False)
    words = "embedding_lr is 0.25, but the adapters leave no matrix of embeddings to train"
    with pytest.raises(ConfigError, match=words):
        rates_of(model, embedding_lr=0.25)


def test_the_first_group_has_the_main_learning_rate() -> None:
    groups = parameter_groups(Tied(), Rates(lr=1.0, weight_decay=0.1, embedding_lr=0.25))
    assert groups[0]["lr"] == 1.0


def test_an_adapter_scales_the_learning_rate_of_its_group() -> None:
    model = Tied()
    group = ParameterGroup(
        [model.weights["embed.weight"], model.weights["body.bias"]], lr_ratio=16.0
    )
    rates = rates_of(model, group, embedding_lr=0.25)
    assert rates["embed.weight"] == (4.0, 0.1)
    assert rates["body.bias"] == (16.0, 0.0)
    assert rates["body.weight"] == (1.0, 0.1)


def test_an_adapter_decides_the_weight_decay_of_its_group() -> None:
    model = Tied()
    assert rates_of(model, ParameterGroup([model.weights["embed.weight"]], weight_decay=0.0))[
        "embed.weight"
    ] == (1.0, 0.0)


def test_of_two_groups_with_a_parameter_the_later_decides() -> None:
    model = Tied()
    groups = [
        ParameterGroup([model.weights["body.weight"]], lr_ratio=ratio) for ratio in (2.0, 3.0)
    ]
    assert rates_of(model, *groups)["body.weight"] == (3.0, 0.1)


def test_a_multiple_of_no_learning_rate_is_an_error() -> None:
    model = Tied()
    group = ParameterGroup([model.weights["body.weight"]], lr_ratio=2.0)
    with pytest.raises(ConfigError, match=r"optimizer\.lr is not set, but an adapter"):
        parameter_groups(model, Rates(lr=None, weight_decay=0.0), [group])


def test_an_optimiser_without_a_learning_rate_keeps_its_own_default() -> None:
    options = {"_target_": "torch.optim.Adadelta"}
    optimizer, _ = optimizer_factory(options, Schedule(warmup_steps=0), 10)(Tied())
    assert optimizer.defaults["lr"] == 1.0
    assert all(group["initial_lr"] == 1.0 for group in optimizer.param_groups)
