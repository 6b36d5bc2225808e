"""What an adapted model computes for a batch, whatever its head is and its rows are called."""
# M choices of all rows together, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES

from ontogeny.attention import decoder_writes, model_inputs, shifted_right

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from ontogeny.objective import Batch

IDS = "input_ids"
_OF_CHOICES = frozenset(MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES.values())


def token_batches(batch: Batch) -> Iterator[Batch]:
    """Yield each part of a batch that one model is run on: `chosen_input_ids` becomes `input_ids`.

    What goes into a decoder belongs to the part that its encoder reads.
    """
    for name in batch:
        if name.endswith(IDS) and not name.startswith("decoder_"):
            prefix = name.removesuffix(IDS)
            yield {
                key.removeprefix(prefix): tensor
                for key, tensor in batch.items()
                if key.startswith(prefix)
            }


def arguments(model: PreTrainedModel, batch: Batch) -> dict[str, object]:
    """Return what a model is called with; a decoder that writes reads the labels of the batch."""
    if decoder_writes(model) and "labels" in batch:
        batch = {"decoder_input_ids": shifted_right(model.config, batch["labels"]), **batch}
    return model_inputs(model, batch)


def computed(model: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """Return all that a model computes for a batch with `input_ids`: logits, states, embeddings.

    Of transformers' classes for multiple choice it is the body's: they take [M, T] in another
    shape.
    """
    body = type(model).__name__ in _OF_CHOICES
    found = (model.base_model if body else cast("nn.Module", model))(**arguments(model, batch))
    return [each for each in found.values() if isinstance(each, Tensor)]
