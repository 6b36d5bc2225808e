"""A model and its tokenizer agree: a row for every token, and the ids at which a text ends."""
# V tokens, D width

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE = "answer"


def grow_embeddings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new: Iterable[int] = ()
) -> int:
    """Set the rows of new tokens, and add those that the model has none for; return how many.

    `new` are the ids of tokens that the tokenizer has got since the model was trained: many models
    have spare rows for them, which nothing has trained. A new row is the mean of the old ones
    (Hewitt, 2021), so that no old token becomes unlikely; that of a new end of text is the old
    end's, so that the model can stop before it has learned to. A tokenizer with other words than
    the model's gets no rows: it is the wrong one.
    """
    missing, added = range(_rows(model), len(tokenizer)), set(tokenizer.added_tokens_decoder)
    if not set(missing) <= added:
        return 0
    rows = sorted({*missing, *new})
    if missing:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ends = {tokenizer.eos_token_id: next(iter(_ids(model.config.eos_token_id)), None)}
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if rows else ():
        if layer is not None:
            _fill(cast("nn.Parameter", layer.weight), rows, ends)
    return len(rows)


def _fill(weight_VD: nn.Parameter, rows: list[int], copies: dict[int, int | None]) -> None:
    """Set rows to a copy of one before them, else to the mean of all before them."""
    import torch  # noqa: PLC0415  `ontogeny show` imports this file and answers at once

    old = rows[0]
    with torch.no_grad():
        weight_VD[rows] = weight_VD[:old].mean(0)
        for row, source in copies.items():
            if row in rows and source is not None and source < old:
                weight_VD[row] = weight_VD[source]


def added_since(tokenizer: PreTrainedTokenizerBase, before: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of added tokens that the tokenizer did not know before, in any form."""
    known = before.get_vocab()
    added = tokenizer.added_tokens_decoder.items()
    return sorted(number for number, token in added if str(token) not in known)


def _rows(model: PreTrainedModel) -> int:
    return len(cast("Tensor", model.get_input_embeddings().weight))


def set_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the tokenizer's special ids where generation and servers look for them.

    What stands there stays, but for an end of text that is not the tokenizer's; generation stops
    at the ends that it knew, and at those of the tokenizer and of its chat template.
    """
    generation = getattr(model, "generation_config", None)
    for config in (model.config, generation):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if config is not None and getattr(config, name, None) is None:
                setattr(config, name, getattr(tokenizer, name, None))
    if tokenizer.eos_token_id not in _ids(model.config.eos_token_id):
        model.config.eos_token_id = tokenizer.eos_token_id
    if generation is not None:
        known = _ids(generation.eos_token_id)
        if new := [number for number in stop_ids(tokenizer) if number not in known]:
            both = [*new, *known]
            generation.eos_token_id = both if len(both) > 1 else both[0]


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a text: the end of a turn of the chat template, and the eos token."""
    ends = (end_of_turn(tokenizer), tokenizer.eos_token_id)
    return list(dict.fromkeys(number for number in ends if number is not None))


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the special token that the chat template puts after an answer, if it puts one."""
    if not tokenizer.chat_template:
        return None
    roles = {"user": "question", "assistant": PROBE}
    messages = [{"role": role, "content": content} for role, content in roles.items()]
    try:
        text = cast("str", tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # noqa: BLE001  a template may want other turns; each refuses in its own way
        return None
    _, found, tail = text.rpartition(PROBE)
    ids = cast("list[int]", tokenizer(tail.lstrip(), add_special_tokens=False)["input_ids"])
    is_special = bool(found and ids) and ids[0] in tokenizer.added_tokens_decoder
    return ids[0] if is_special else None


def _ids(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
