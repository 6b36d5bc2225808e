"""Every check can fail: a component that breaks one promise is told of that promise."""

from collections.abc import Callable
from dataclasses import asdict

import pytest
from omegaconf import DictConfig, OmegaConf

from ontogeny import configuration
from ontogeny.testing import (
    ContractError,
    check_adapter,
    check_evaluator,
    check_head,
    check_objective,
)

Use = Callable[..., None]

OBJECTIVES = {
    "drawsinprepare": "prepare makes other examples of the same rows the second time",
    "countsrows": "prepare makes other examples of the rows in two parts",
    "changesrows": "prepare changes the rows",
    "makesnothing": "prepare makes no example",
    "unequalcolumns": "examples cannot be stored: example 3 lacks or adds column odd",
    "matrices": r"examples cannot be stored: column matrix is float64 of shape \(2, 2\)",
    "lists": "column input_ids of example 0 is list",
    "namedotherwise": "example 0 has no input_ids; its columns are tokens",
    "shortlabels": r"example 0 has \d+ labels for \d+ tokens",
    "drawsincollate": "collate makes another batch of the same examples the second time",
    "changesexamples": "collate modifies the examples",
    "arrays": "collate returns a ndarray as input_ids",
    "elsewhere": "collate puts input_ids on meta",
    "mean": "loss.total of a row twice is no double of it once: .*return the sum",
    "randommean": "loss.total of a row twice is no double",
    "meanmetric": r"loss.metrics\['accuracy'\] of a row twice is no double",
    "meangradient": "gradients accumulated over two batches differ",
    "baretensor": "loss returns a Tensor",
    "vector": r"loss.total has shape \(\d+,\)",
    "wholenumber": "loss.weight is a int",
    "weightless": "loss.weight is 0.0; count what total sums",
    "notanumber": "loss.total is nan",
    "detached": "loss.total has no gradient",
    "flat": "the gradient of loss.total is zero everywhere",
    "steep": "the gradient of loss.total is not finite",
    "learnspadding": "loss.total of a row alone is another one than beside a longer row",
    "seesneighbours": "loss.total of packed documents is another one than of each alone",
    "shifts": "loss.weight of an example is another one than of its two halves",
    "owngenerator": "loss gives .* for the same batch, weights and seed",
    "countssteps": "a run that crashed at step 3 and went on from step 2 has other weights",
    "failsintraining": "a run of 4 steps fails: the moon is full",
    "holdsalambda": "worker processes get the objective, which cannot be pickled",
    "noexperience": "experience yields nothing to learn from",
    "otherexperience": "experience differs between two calls with the same seed",
    "wrongexperience": "loss returns a dict",
}
HEADS = {
    "halfprecision": "random weights come as torch.bfloat16, expected torch.float32",
    "evalmode": "random weights come in eval mode",
    "loadsinevalmode": "a saved model come in eval mode",
    "unseeded": "random weights differ between two loads of one seed",
    "savespickles": "save leaves weights.pt",
    "savesthebody": "a model that was saved and loaded gives other outputs",
}
ADAPTERS = {
    "moves": "keeps_function is true, but apply moves the outputs",
    "freezes": "nothing is trainable after apply",
    "appliestonothing": "apply returns a LlamaForCausalLM",
    "renames": "extend changes the tokenizer that it is given",
    "keepstoitself": "apply leaves another tokenizer in the bundle than extend has returned",
    "settlesnothing": "settle returns a NoneType",
    "forgets": "settle moves the outputs",
    "leavesahook": "the settled model gives other outputs once saved and loaded",
    "savesnothing": "the settled bundle is saved without weights",
}
EVALUATORS = {
    "nothing": "evaluate returns no metrics",
    "barenumber": "accuracy is a float, no Metric",
    "notanumber": "accuracy is nan: not finite",
    "infiniteinterval": "accuracy is 0.0, 0.5, inf: not finite",
    "unitless": "accuracy has no unit",
    "outsideofitsinterval": "accuracy is outside of its interval",
    "draws": "two calls measure differently",
    "trains": "the weights of the model are changed",
    "leavestrainmode": "the model is left in train mode",
}
OPTIONS = {
    "undocumented": "Undocumented has no docstring",
    "uncommented": "Uncommented.size has no comment",
    "inneruncommented": "Uncommented.size has no comment",
    "untyped": "Untyped.size has no type, so it is no option; write `size: int = 1`",
    "forgetful": "options are .* after pickling",
    "anything": "Anything.size takes anything: its type is typing.Any; name a type",
    "binary": "options cannot be part of the stage's key",
    "local": "options cannot be pickled",
    "generated": "the source of Generated cannot be read",
    "missing": "cannot import nowhere:Adapter",
    "function": "not a class",
    "foreign": "working:NextToken is no Adapter",
    "extra": r"TakesTwo\(options\) fails: .*missing 1 required positional argument",
    "abstract": r"Unfinished\(options\) fails: Can't instantiate abstract class",
    "othertwin": "shares its options, Fresh, with adapter twin",
    "nosuch": "no adapter 'nosuch'",
}


def catches(check: Callable[[str], None], name: str, words: str) -> None:
    with pytest.raises(ContractError, match=words) as caught:
        check(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "words"), OBJECTIVES.items())
def test_a_broken_objective_is_told_which_promise(name: str, words: str, use: Use) -> None:
    use("working", "broken_objectives")
    catches(check_objective, name, words)


@pytest.mark.parametrize(("name", "words"), HEADS.items())
def test_a_broken_head_is_told_which_promise(name: str, words: str, use: Use) -> None:
    use("broken_heads")
    catches(check_head, name, words)


@pytest.mark.parametrize(("name", "words"), ADAPTERS.items())
def test_a_broken_adapter_is_told_which_promise(name: str, words: str, use: Use) -> None:
    use("broken_adapters")
    catches(check_adapter, name, words)


@pytest.mark.parametrize(("name", "words"), EVALUATORS.items())
def test_a_broken_evaluator_is_told_which_promise(name: str, words: str, use: Use) -> None:
    use("broken_evaluators")
    catches(check_evaluator, name, words)


@pytest.mark.parametrize(("name", "words"), OPTIONS.items())
def test_broken_options_are_told_which_promise(name: str, words: str, use: Use) -> None:
    use("broken_options")
    catches(check_adapter, name, words)


def test_options_that_lose_their_types_on_the_way_are_caught(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = configuration.open_node

    def untyped(schema: type) -> DictConfig:
        foreign = not schema.__module__.startswith("ontogeny")
        return OmegaConf.create(asdict(schema())) if foreign else typed(schema)

    use("working")
    monkeypatch.setattr(configuration, "open_node", untyped)
    catches(check_objective, "nexttoken", "objective.steps=.* is accepted, though .* is a number")
    catches(check_adapter, "lastlayer", "adapter=lastlayer composes dict, no LastLayerOptions")
