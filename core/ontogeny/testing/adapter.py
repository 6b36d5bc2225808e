"""`check_adapter`: it keeps the function it says it keeps, trains, and settles for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from ontogeny.adapter import Adapter, Bundle
from ontogeny.checkpoint import save_checkpoint
from ontogeny.options import Model
from ontogeny.seeding import seed_everything
from ontogeny.testing.contract import require
from ontogeny.testing.tensors import difference, outputs
from ontogeny.testing.trial import trial
from ontogeny.tokenizers import tokenizer_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ontogeny.testing.trial import Trial

TOLERANCE = 1e-4  # relative: loaded weights are computed with in another order
STEP = 0.02  # how far each trainable weight is moved, as training would


def check_adapter(name: str, *, stage: str = "pretraining", overrides: Sequence[str] = ()) -> None:
    """Raise ContractError for the first promise that an adapter breaks."""
    with trial("adapter", name, stage, overrides) as made:
        adapter, who = cast("Adapter", made.component), made.who
        bundle = made.bundle(adapted=False)
        before = outputs(bundle.model, bundle.tokenizer)
        extended = _extended(made, adapter)
        bundle = _bundle(adapter.apply(bundle), who, "apply")
        broken = "apply leaves another tokenizer in the bundle than extend has returned"
        kept = tokenizer_digest(bundle.tokenizer) == extended
        require(kept, who, broken, "let apply put it into the bundle")
        if adapter.keeps_function:
            moved = difference(before, outputs(bundle.model, made.tokenizer))
            broken = f"keeps_function is true, but apply moves the outputs (relative {moved:.1e})"
            mend = "start from a change of zero, or set keeps_function = False"
            require(moved <= adapter.tolerance, who, broken, mend)
        trained = [each for each in bundle.model.parameters() if each.requires_grad]
        require(bool(trained), who, "nothing is trainable after apply", "leave gradients on")
        _train(trained)
        taught = outputs(bundle.model, bundle.tokenizer)
        bundle = _bundle(adapter.settle(bundle), who, "settle")
        moved = difference(taught, outputs(bundle.model, bundle.tokenizer))
        broken = f"settle moves the outputs (relative {moved:.1e})"
        mend = "merge exactly what was trained, or say in settle_tolerance how far it moves"
        require(moved < adapter.settle_tolerance, who, broken, mend)
        _check_saving(made, bundle)


def _extended(made: Trial, adapter: Adapter) -> str:
    """Check that the given tokenizer is left alone; return the digest of the one for the data."""
    before = tokenizer_digest(made.tokenizer)
    extended = tokenizer_digest(made.extended(adapter))
    broken = "extend changes the tokenizer that it is given"
    require(tokenizer_digest(made.tokenizer) == before, made.who, broken, "change a copy of it")
    return extended


def _check_saving(made: Trial, bundle: Bundle) -> None:
    """Save the settled bundle and, if it is a whole model, open it again."""
    folder = save_checkpoint(bundle, made.folder / "settled", {})
    files = {file.name for file in folder.iterdir()}
    mend = "settle must leave a model that its head can save"
    saved = any(file.endswith(".safetensors") for file in files)
    require(saved, made.who, "the settled bundle is saved without weights", mend)
    if "config.json" not in files:
        return  # weights beside a base model: whoever wrote them knows how to open them
    loaded = bundle.head.load(Model(source=str(folder)), bundle.tokenizer)
    models = (bundle.model, loaded)
    moved = difference(*(outputs(model, bundle.tokenizer) for model in models))
    broken = f"the settled model gives other outputs once saved and loaded (relative {moved:.1e})"
    require(moved < TOLERANCE, made.who, broken, mend)


def _bundle(returned: object, who: str, method: str) -> Bundle:
    kind = type(returned).__name__
    require(isinstance(returned, Bundle), who, f"{method} returns a {kind}", "return the bundle")
    return cast("Bundle", returned)


def _train(parameters: Sequence[nn.Parameter]) -> None:
    seed_everything("train")
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(STEP * torch.randn_like(parameter))
