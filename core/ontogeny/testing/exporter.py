"""`check_exporter`: what it writes opens again and says the same; the bundle stays as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from ontogeny.exporter import Exported, Exporter
from ontogeny.testing.contract import require
from ontogeny.testing.tensors import equal_batches
from ontogeny.testing.trial import trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ontogeny.adapter import Bundle

LENGTHS = (5, 11)  # tokens of the rows: no shape may be fixed


def check_exporter(name: str, *, stage: str = "export", overrides: Sequence[str] = ()) -> None:
    """Raise ContractError for the first promise that an exporter breaks."""
    with trial("exporter", name, stage, overrides) as made:
        exporter, who = cast("Exporter", made.component), made.who
        bundle = made.bundle()
        bundle.model.eval()
        weights = {key: value.clone() for key, value in bundle.model.state_dict().items()}
        source = str(made.config.model.source)
        exporter.check(bundle, source)
        folder = made.folder / "exported"
        folder.mkdir()
        exporter.export(bundle, source, folder)
        require(any(folder.iterdir()), who, "export writes nothing", "write into the folder")
        equal = equal_batches(weights, bundle.model.state_dict())
        require(equal, who, "the weights of the model are changed", "export a copy")
        modes = {module.training for module in bundle.model.modules()}
        require(modes == {False}, who, "the model is left in train mode", "put it back")
        exported = exporter.open(folder)
        kind = type(exported).__name__
        broken = f"open returns a {kind}, no Exported"
        require(isinstance(exported, Exported), who, broken, "derive it from ontogeny.exporter")
        _check_outputs(who, exporter, exported, bundle)
        exported.close()


def _check_outputs(who: str, exporter: Exporter, exported: Exported, bundle: Bundle) -> None:
    for length in LENGTHS:
        ids = list(range(10, 10 + length))
        with torch.no_grad():
            found = bundle.model(input_ids=torch.tensor([ids]))
            expected = cast("Tensor", found[0][0]).float()
        outputs = exported.outputs(ids)
        broken = f"outputs of {length} tokens have the shape {[*outputs.shape]}"
        mend = f"expected {[*expected.shape]}, for any number of tokens"
        require(outputs.shape == expected.shape, who, broken, mend)
        moved = float((outputs - expected).abs().max() / expected.abs().max())
        broken = f"the outputs of the export are off by {moved:.1e}, relative to the largest"
        mend = f"tolerance is {exporter.tolerance:.1e}: mend the export, or say what it can do"
        require(moved <= exporter.tolerance, who, broken, mend)
