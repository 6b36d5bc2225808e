"""`check_head`: models come trainable, and open again as they were saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from ontogeny.head import Head
from ontogeny.options import Model
from ontogeny.seeding import seed_everything
from ontogeny.testing.contract import require
from ontogeny.testing.tensors import difference, outputs
from ontogeny.testing.trial import ARCHITECTURE, trial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel


# Relative: where a weight lies in memory decides in which order a kernel may add.
ROUNDING = 1e-6


def check_head(
    name: str,
    *,
    stage: str = "pretraining",
    overrides: Sequence[str] = (),
    architecture: Mapping[str, object] = ARCHITECTURE,
) -> None:
    """Raise ContractError for the first promise that a head breaks.

    `architecture` is what stands in `model.config`: a small model that this head can open.
    """
    with trial("head", name, stage, overrides) as made:
        head, who = cast("Head", made.component), made.who
        options = Model(config=dict(architecture), attention=made.config.model.attention)
        seed_everything("weights")
        model = head.load(options, made.tokenizer)
        _check_trainable(who, model, "random weights")
        seed_everything("weights")
        moved = difference(model.state_dict(), head.load(options, made.tokenizer).state_dict())
        mend = "draw random numbers from torch's generator alone"
        require(moved == 0, who, "random weights differ between two loads of one seed", mend)
        folder = made.folder / "saved"
        folder.mkdir()
        head.save(model, folder)
        files = {file.name for file in folder.iterdir()}
        whole = "config.json" in files and any(file.endswith(".safetensors") for file in files)
        broken = f"save leaves {', '.join(sorted(files)) or 'nothing'}"
        require(whole, who, broken, "write config.json and safetensors: model.save_pretrained")
        loaded = head.load(Model(source=str(folder)), made.tokenizer)
        _check_trainable(who, loaded, "a saved model")
        moved = difference(*(outputs(each, made.tokenizer) for each in (model, loaded)))
        broken = f"a model that was saved and loaded gives other outputs (relative {moved:.1e})"
        require(moved < ROUNDING, who, broken, "save all weights, those of the output layers too")


def _check_trainable(who: str, model: PreTrainedModel, what: str) -> None:
    kinds = {parameter.dtype for parameter in model.parameters()}
    mend = "use random_weights and load_pretrained of ontogeny.models"
    broken = f"{what} come as {', '.join(sorted(map(str, kinds)))}, expected torch.float32"
    require(kinds == {torch.float32}, who, broken, mend)
    require(model.training, who, f"{what} come in eval mode, expected train mode", mend)
