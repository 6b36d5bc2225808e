"""What a batch tells a model: which tokens, at which positions, and who may look at whom."""
# B rows, T tokens

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.masking_utils import (
    and_masks,
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    create_masks_for_generate,
    packed_sequence_mask_function,
)

from ontogeny.errors import ConfigError
from ontogeny.objective import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from ontogeny.objective import Batch

Mask = torch.Tensor | dict[str, object]  # one, or one for each type of layer

# Every value that transformers' models take besides the mask.
_PASSED = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "decoder_input_ids")
_ENCODER_MASKS = {
    "full_attention": create_bidirectional_mask,
    "sliding_attention": create_bidirectional_sliding_window_mask,
}


def model_inputs(model: nn.Module, batch: Batch) -> dict[str, object]:
    """Return the keyword arguments of `model.forward` for a batch, packed or padded.

    A packed batch (one with `document_ids`, [B, T]) gets a block-diagonal attention mask, so that
    no document sees another one in its row, also where the model would not find out by itself.
    Within a document, `branch_ids` ([B, T], 0 for what is shared) let several branches go on from
    one beginning without seeing each other. Positions that a batch gives begin at 0; those that
    the model gets, where it begins to count.
    Raises ConfigError for a model whose decoder writes if the batch has no `decoder_input_ids`.
    """
    inputs: dict[str, object] = {name: batch[name] for name in _PASSED if name in batch}
    if "decoder_input_ids" not in inputs and decoder_writes(model):
        msg = (
            f"{type(model).__name__} has an encoder and a decoder, and this objective gives the "
            f"decoder nothing: choose another one, such as objective=seq2seq, or another head"
        )
        raise ConfigError(msg)
    if "document_ids" in batch or "branch_ids" in batch:
        documents_BT = _documents(batch)
        inputs["attention_mask"] = isolation_mask(model, documents_BT, batch.get("branch_ids"))
    if "position_ids" in batch and (first := first_position(model)):
        inputs["position_ids"] = batch["position_ids"] + first
    return inputs


def decoder_writes(model: nn.Module) -> bool:
    """Say whether this is an encoder with a decoder that writes, and needs to be told what.

    Classes of other tasks read with the encoder alone, or give the decoder what it needs.
    """
    is_pair = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return bool(is_pair and cast("PreTrainedModel", model).can_generate())


def shifted_right(config: PreTrainedConfig, labels_BT: Tensor) -> Tensor:
    """Return what a decoder reads while it learns labels: its start, then each one token later."""
    shifted_BT = labels_BT.roll(1, dims=1)
    shifted_BT[:, 0] = cast("int", config.decoder_start_token_id)
    return shifted_BT.masked_fill(shifted_BT == IGNORED, config.pad_token_id or 0)


def first_position(model: nn.Module) -> int:
    """Return the position of a document's first token: 0, or more in the family of RoBERTa.

    Those models have no position for padding, and count from the id of the padding token on.
    """
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if padding is not None and "position_embeddings" in name.split("."):
            return int(padding) + 1
    return 0


def _documents(batch: Batch) -> Tensor:
    """Return the document of each token; of rows that are not packed, padding is the second one."""
    if "document_ids" in batch:
        return batch["document_ids"]
    if "attention_mask" in batch:
        return 1 - batch["attention_mask"]
    return torch.zeros_like(batch["input_ids"])


def attention_window(model: nn.Module) -> int | None:
    """Return how many tokens back the shortest-sighted layer looks; None where all see all."""
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    types = set(getattr(config, "layer_types", None) or [])
    if types and not types & {"sliding_attention", "chunked_attention"}:
        return None
    limits = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((int(limit) for limit in limits if limit is not None), default=None)


def isolation_mask(
    model: nn.Module, document_ids_BT: Tensor, branch_ids_BT: Tensor | None = None
) -> Mask:
    """Return the mask in the form that the model's attention kernel takes.

    Sliding windows and other layer types are kept: those models get one mask for each type. Windows
    are counted in places of the row, which for branches are not their positions: see
    `attention_window`.
    """
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    if "flash" in str(config._attn_implementation):  # noqa: SLF001
        msg = (
            f"model.attention is {config._attn_implementation!r}, which takes no mask: "  # noqa: SLF001
            f"set data.packing=false, or model.attention=sdpa or flex_attention"
        )
        raise ConfigError(msg)
    document_ids_BT = document_ids_BT.contiguous()
    if _sees_everything(config):
        return _dense_mask(document_ids_BT, branch_ids_BT, causal=is_causal(model))
    return _library_mask(model, config, document_ids_BT, branch_ids_BT)


def _sees_everything(config: PreTrainedConfig) -> bool:
    """Say whether one boolean mask serves every layer: no windows, no chunks, the SDPA kernel."""
    limits = ("sliding_window", "attention_chunk_size")
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    is_limited = any(getattr(config, name, None) is not None for name in limits)
    is_sdpa = config._attn_implementation == "sdpa"  # noqa: SLF001
    return is_sdpa and types == {"full_attention"} and not is_limited


def _dense_mask(document_ids_BT: Tensor, branch_ids_BT: Tensor | None, *, causal: bool) -> Tensor:
    """Return the block-diagonal mask, true where to look: [B, 1, T, T]."""
    mask_B1TT = document_ids_BT[:, None, :, None] == document_ids_BT[:, None, None, :]
    if branch_ids_BT is not None:
        looking_B1T1, seen_B11T = branch_ids_BT[:, None, :, None], branch_ids_BT[:, None, None, :]
        mask_B1TT &= (seen_B11T == 0) | (seen_B11T == looking_B1T1)
    if causal:
        length = document_ids_BT.shape[1]
        mask_B1TT &= torch.ones(length, length, dtype=torch.bool, device=mask_B1TT.device).tril()
    return mask_B1TT


def _library_mask(
    model: nn.Module,
    config: PreTrainedConfig,
    document_ids_BT: Tensor,
    branch_ids_BT: Tensor | None,
) -> Mask:
    """Let transformers make the masks: about 20 times slower, for all kernels and layer types."""
    together = packed_sequence_mask_function(document_ids_BT)
    if branch_ids_BT is not None:
        together = and_masks(together, _branch_function(branch_ids_BT.contiguous()))
    arguments: dict[str, Any] = {
        "config": config,
        # Only its shape, dtype and device are read.
        "inputs_embeds": torch.empty(
            (*document_ids_BT.shape, 0), dtype=_dtype(model), device=document_ids_BT.device
        ),
        "attention_mask": None,
        "past_key_values": None,
        "and_mask_function": together,
    }
    if is_causal(model):
        return cast("Mask", create_masks_for_generate(**arguments))
    types = getattr(config, "layer_types", None)
    if types is None:
        return cast("Mask", create_bidirectional_mask(**arguments))
    return {kind: _ENCODER_MASKS[kind](**arguments) for kind in set(types)}


def _branch_function(branch_ids_BT: Tensor) -> Callable[..., Tensor]:
    """Return, in transformers' words, who may look at whom: at what is shared, and at one's own."""

    def looks(row: Tensor, _: Tensor, looking: Tensor, seen: Tensor) -> Tensor:
        branch = branch_ids_BT[row, seen]
        return (branch == 0) | (branch == branch_ids_BT[row, looking])

    return looks


def is_causal(model: nn.Module) -> bool:
    """Say whether a token of this model sees only what stands before it.

    Its attention layers tell; where none does (Mamba, RWKV, BLOOM), the family of the model.
    """
    flags = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    if flags:
        return all(bool(flag) for flag in flags)
    family = type(getattr(model, "config", None))
    return family in MODEL_FOR_CAUSAL_LM_MAPPING and family not in MODEL_FOR_MASKED_LM_MAPPING


def _dtype(model: nn.Module) -> torch.dtype:
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        device = next(model.parameters()).device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return next(model.parameters()).dtype
