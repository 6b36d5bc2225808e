"""A student out of its teacher: some of its blocks, and the strongest units of each width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.adapter import Adapter, Bundle
from ontogeny.blocks import find_blocks
from ontogeny.errors import ConfigError
from ontogeny.models import plain_weights
from ontogeny.quantization import is_quantised
from ontogeny_plugins.distillation.cutting import Anatomy, cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ontogeny_plugins.distillation import Cut


class CutAdapter(Adapter):
    """Replaces the model by a smaller one of the same family that begins with its weights."""

    keeps_function = False

    def __init__(self, config: Cut) -> None:
        self.config = config
        self._record: dict[str, object] = {}

    def apply(self, bundle: Bundle) -> Bundle:
        """Return a bundle with the student; raise ConfigError for what cannot be cut so."""
        model = bundle.model
        if is_quantised(model):
            raise ConfigError("adapter=[cut] cannot cut weights in few bits")
        if plain_weights(model) != {*model.state_dict()}:
            raise ConfigError(
                "adapter=[cut] cannot cut a model that another adapter has changed: name cut first"
            )
        layers = self._layers(len(find_blocks(model)[1]))
        asked = {
            "hidden_size": self.config.hidden_size,
            "intermediate_size": self.config.intermediate_size,
            "heads": self.config.heads,
        }
        sizes = {kind: size for kind, size in asked.items() if size is not None}
        widths = Anatomy(model).strongest(sizes) if sizes else []
        student = cut(model, layers, widths)
        self._record = {
            "layers": layers,
            "widths": {width.kind: width.record() for width in widths},
            "parameters": {"before": model.num_parameters(), "after": student.num_parameters()},
        }
        return Bundle(student, bundle.tokenizer, bundle.head)

    def settle(self, bundle: Bundle) -> Bundle:
        """Leave the student as it is: an ordinary model."""
        return bundle

    def record(self) -> Mapping[str, object]:
        """Return which blocks and units of the teacher the student was made of."""
        return self._record

    def _layers(self, count: int) -> list[int]:
        chosen, depth = self.config.layers, self.config.depth
        if depth is not None and depth > count:
            raise ConfigError(f"adapter.cut.depth is {depth}; expected 1..{count}, the blocks")
        if depth is not None:  # evenly; the first and, from two on, the last are among them
            return [round(each * (count - 1) / max(1, depth - 1)) for each in range(depth)]
        if wrong := [layer for layer in chosen if not 0 <= layer < count]:
            raise ConfigError(
                f"adapter.cut.layers names block {wrong[0]}; the model has {count}, counted from 0"
            )
        return list(chosen) or list(range(count))
