"""A causal model whose next-token probabilities are known: they depend on the last token alone."""
# V vocabulary

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def bigram_model(logits_VV: Tensor, *, context: int = 512) -> PreTrainedModel:
    """Return a Llama, in eval mode, that gives logits_VV[i] after token i, whatever stood before.

    Its width is the vocabulary: embeddings are unit vectors, the layer adds nothing to them, and
    the normalisation makes them √V long.
    """
    size = len(logits_VV)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=2,
        max_position_embeddings=context,
        rms_norm_eps=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(logits_VV.T / math.sqrt(size))
    return cast("PreTrainedModel", model.eval())
