"""What a fine-tuned model says of texts, streamed: the logits of one batch are held at a time."""
# N rows, B rows of a batch, C classes, K outputs

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.data.collation import collate_tokens
from ontogeny.errors import ConfigError
from ontogeny_plugins.classification.encoding import encode, fitted, text_logits
from ontogeny_plugins.classification.labels import Labels
from ontogeny_plugins.classification.losses import ordinal_probabilities

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Batch, Example, Row

TASKS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


def labels_of(config: PreTrainedConfig) -> Labels:
    """Return the task and the classes of a model, as its config tells them."""
    ordered = cast("list[str] | None", getattr(config, "ordinal_labels", None))
    if ordered is not None:
        return Labels("ordinal", ordered)
    if not hasattr(config, "id2label"):
        raise ConfigError(f"a {config.model_type} model has no classes to evaluate")
    named = cast("dict[int, str]", config.id2label)
    names = [str(named[number]) for number in sorted(named)]
    guess = "regression" if len(names) == 1 else "single_label_classification"
    # Models whose classes nobody has named: the labels of the rows are their ids.
    unnamed = names == [f"LABEL_{number}" for number in range(len(names))]
    listed = [str(number) for number in range(len(names))] if unnamed else names
    return Labels(TASKS[config.problem_type or guess], listed)


def predict(bundle: Bundle, rows: Sequence[Row], max_length: int, batch_size: int) -> Tensor:
    """Return the outputs for every row, [N, K] float32 on the CPU."""
    examples = [fitted(example, max_length) for example in encode(rows, bundle.tokenizer)]
    return in_batches(bundle, examples, batch_size, partial(text_logits, bundle.model))


def in_batches(
    bundle: Bundle,
    examples: Sequence[Example],
    batch_size: int,
    outputs: Callable[[Batch], Tensor],
) -> Tensor:
    """Return `outputs` of each example, [N, ...]; texts of like length share a batch."""
    order = sorted(range(len(examples)), key=lambda index: -len(examples[index]["input_ids"]))
    device = next(bundle.model.parameters()).device
    parts = []
    for begin in range(0, len(order), batch_size):
        chosen = [examples[index] for index in order[begin : begin + batch_size]]
        batch = {name: each.to(device) for name, each in collate_tokens(chosen).items()}
        parts.append(outputs(batch).float().cpu())
    found = torch.cat(parts)
    return found[torch.tensor(order).argsort()]


def probabilities(task: str, outputs: Tensor) -> Tensor:
    """Return what the outputs mean: probabilities of classes, [N, C]; numbers stay as they are."""
    if task == "ordinal":
        return ordinal_probabilities(outputs)
    if task == "multi_label":
        return outputs.sigmoid()
    return outputs.softmax(-1) if task == "single_label" else outputs
