"""What a causal language model says of every single token of many texts."""
# N tokens of all texts together, B windows, T tokens of a window

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from ontogeny.attention import model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.objective import IGNORED
from ontogeny.scoring import windows_of
from ontogeny.vocabulary_loss import label_log_probs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Example

Line = list[int]  # ids of a text behind what begins one


def lines_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Line]:
    """Return the ids of each text behind the tokenizer's bos (else eos) token, if it has one."""
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    first = [] if start is None else [int(cast("int", start))]
    return [[*first, *ids] for ids in ids_of(texts, tokenizer)]


def ids_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Line]:
    """Return the ids of each text alone."""
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return cast("list[Line]", encoded)


def token_log_probs(
    bundle: Bundle, lines: Sequence[Line], *, length: int, batch_size: int
) -> list[np.ndarray]:
    """Return log p of every token of a line after its first, [T - 1] float64 each.

    Lines are cut into windows of `length` tokens as in `score_texts`.
    """
    windows = sorted(_windows(lines, length), key=lambda window: -len(window[2]["labels"]))
    scores = [np.zeros(max(0, len(line) - 1)) for line in lines]
    device = next(bundle.model.parameters()).device
    for first in range(0, len(windows), batch_size):
        group = windows[first : first + batch_size]
        batch = collate_tokens([example for _, _, example in group])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        scores_N = label_log_probs(bundle.model, model_inputs(bundle.model, batch), batch["labels"])
        sizes = [int((example["labels"] != IGNORED).sum()) for _, _, example in group]
        parts = scores_N.double().cpu().split(sizes)
        for (line, begin, _), part in zip(group, parts, strict=True):
            scores[line][begin : begin + len(part)] = part.numpy()
    return scores


def _windows(lines: Sequence[Line], length: int) -> Iterator[tuple[int, int, Example]]:
    """Yield (line, position, window) with aligned labels; every token is a label once."""
    for number, line in enumerate(lines):
        for begin, window in windows_of(np.array(line, dtype=np.int32), length):
            yield number, begin, window
