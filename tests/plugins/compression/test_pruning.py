"""Pruning: which weights become zero, by the definitions of the papers; and that they stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.plugins.compression.conftest import QUICK, World, value
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from ontogeny import ConfigError, compose, run
from ontogeny.errors import UserError
from ontogeny.testing.trial import store_at
from ontogeny_plugins.compression.pruning import lowest, lowest_of_groups, matrix
from ontogeny_plugins.compression.wanda import squared_inputs


def test_the_smallest_are_taken_of_a_row_or_of_all() -> None:
    scores = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    assert lowest(scores, 0.5, by_row=False).tolist() == [[True] * 4, [False] * 4]
    assert lowest(scores, 0.5, by_row=True).tolist() == [[True, True, False, False]] * 2


def test_of_four_neighbours_two_stay() -> None:
    scores = torch.tensor([[4.0, 1, 3, 2, 1, 2, 9, 8]])
    expected = [[False, True, False, True, True, True, False, False]]
    assert lowest_of_groups(scores, "2:4").tolist() == expected
    assert lowest_of_groups(scores, "1:4").sum() == 6


def test_norms_are_of_all_real_tokens_of_all_batches() -> None:
    layer = nn.Linear(3, 2)
    first, second = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    with squared_inputs([layer], [real, torch.ones(2, 4, dtype=torch.bool)]) as sums:
        layer(first)
        layer(second)
    kept = torch.cat([first[real], second.reshape(-1, 3)])
    torch.testing.assert_close(sums[layer].sqrt(), kept.norm(dim=0))


def test_a_layer_that_is_stored_the_other_way_round_has_its_outputs_first() -> None:
    layer = Conv1D(5, 3)
    assert matrix(layer).shape == (5, 3)
    matrix(layer)[0] = 0
    assert (layer.weight[:, 0] == 0).all()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {name: each for name, each in model.state_dict().items() if "proj" in name}


def test_magnitude_keeps_the_largest_weights_as_they_were(world: World) -> None:
    result = world.compress("adapter=[magnitude]", "adapter.magnitude.sparsity=0.4")
    before, after = weights(world.checkpoint), weights(result.checkpoint or Path())
    for name, weight in after.items():
        zero = weight == 0
        assert zero.float().mean() == pytest.approx(0.4, abs=1e-3)
        assert before[name][zero].abs().max() <= before[name][~zero].abs().min()
        assert torch.equal(weight[~zero], before[name][~zero])
    assert value(result, "magnitude", "sparsity") == pytest.approx(0.4, abs=1e-3)


def test_wanda_takes_as_many_of_each_output(world: World) -> None:
    wanda = world.compress("adapter=[wanda]", "adapter.wanda.sparsity=0.6")
    for weight in weights(wanda.checkpoint or Path()).values():
        shares = (weight == 0).float().mean(1)
        assert shares.min() == shares.max() == pytest.approx(0.6, abs=0.01)


def test_wanda_prunes_each_block_with_what_the_pruned_ones_before_give(world: World) -> None:
    """Written out: |W| · ‖X‖₂ of each layer, block after block (Sun et al. 2023, algorithm 1)."""
    options = ("data.batch_size=4", "data.packing=false", "adapter.wanda.batches=1")
    result = world.compress("adapter=[wanda]", *options)
    pruned = AutoModelForCausalLM.from_pretrained(result.checkpoint or Path()).model
    model = AutoModelForCausalLM.from_pretrained(world.checkpoint).model
    batch = first_batch(world)
    real = batch["attention_mask"].bool()
    for index, block in enumerate(model.layers):
        given: dict[str, torch.Tensor] = {}
        layers = {name: each for name, each in block.named_modules() if "proj" in name}
        hooks = [
            each.register_forward_pre_hook(
                lambda _, args, name=name, given=given: given.__setitem__(name, args[0][real])
            )
            for name, each in layers.items()
        ]
        with torch.no_grad():
            model(**batch)
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            scores = layer.weight.detach().abs() * given[name].norm(dim=0)
            kept = scores >= scores.sort(dim=1).values[:, [scores.shape[1] // 2]]
            found = dict(pruned.layers[index].named_modules())[name].weight
            assert ((found != 0) == kept).float().mean() > 0.998  # rounding decides the closest
            layer.weight.data = found.detach().clone()


def first_batch(world: World) -> dict[str, torch.Tensor]:
    """Return the first batch of a run, with its mask."""
    from ontogeny.data.pipeline import TrainingRows
    from ontogeny.plugins import registry

    original = TrainingRows.__getitem__
    rows: list[object] = []

    def noted(self: TrainingRows, position: int) -> object:
        found = original(self, position)
        rows.append(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRows, "__getitem__", noted)
        options = ("data.batch_size=4", "data.packing=false", "adapter.wanda.batches=1", "seed=0")
        world.compress("adapter=[wanda]", *options, "adapter.wanda.sparsity=0.51")
    objective = registry().get("objective", "clm").component
    batch = objective.load()(objective.config()).collate(rows[:4])
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def test_a_pattern_holds_in_every_group(world: World) -> None:
    result = world.compress("adapter=[wanda]", "adapter.wanda.pattern='2:4'")
    for weight in weights(result.checkpoint or Path()).values():
        assert ((weight.reshape(-1, 4) != 0).sum(1) <= 2).all()


def test_zeros_stay_while_the_others_are_trained(world: World) -> None:
    config = compose(
        [
            *("stage=continued_pretraining", "adapter=[magnitude]", *QUICK, "evaluator=[]"),
            *(f"model.source={world.checkpoint}", f"data.path={world.text}"),
            *("trainer.max_steps=3", "optimizer.lr=1e-2", "trainer.compile=false"),
        ]
    )
    with store_at(world.folder / "store"):
        result = run(config, world.folder / "trained")
    before, after = weights(world.checkpoint), weights(result.checkpoint or Path())
    for name, weight in after.items():
        assert (weight == 0).float().mean() == pytest.approx(0.5, abs=1e-3)
        assert not torch.equal(weight[weight != 0], before[name][weight != 0])
    assert result.metrics["continued_pretraining"]["magnitude"]["sparsity"].value > 0.49


def test_beyond_the_budget_nothing_is_saved(world: World) -> None:
    with pytest.raises(UserError, match=r"rises from .* beyond stage.budget=0.01 \(1.00%\)"):
        world.compress("adapter=[magnitude]", "adapter.magnitude.sparsity=0.9", "stage.budget=0.01")
    assert not (world.folder / "run/stages/compression/checkpoint").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter=[wanda]", "adapter.wanda.sparsity=1.5"], "wanda.sparsity is 1.5"),
        (["adapter=[wanda]", "adapter.wanda.pattern='4:2'"], "expected n:m with 0 < n < m"),
        (["adapter=[wanda]", "adapter.wanda.pattern='1:7'"], "64 inputs, no multiple of 7"),
        (["adapter=[wanda]", "adapter.wanda.layers=[nowhere]"], "there are down_proj, gate_proj"),
        (["adapter=[]"], "adapter is empty"),
        (["adapter=[magnitude]", "optimizer.lr=1"], "nothing reads optimizer.lr"),
        (
            ["adapter=[magnitude]", "stage.monitor=perplexity/bits", "stage.budget=1"],
            "which no evaluator measures .did you mean",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    world: World, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        world.compress(*overrides)
    assert "\n" not in str(caught.value)


def test_without_a_model_there_is_nothing_to_compress(world: World) -> None:
    with pytest.raises(ConfigError, match=r"model.source is not set"):
        world.compress("adapter=[magnitude]", "model.source=null")
