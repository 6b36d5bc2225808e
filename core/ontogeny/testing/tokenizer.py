"""A tokenizer that needs no data: one token for each byte, and the usual special ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END, PADDING, MASK = "<|endoftext|>", "<|padding|>", "<|mask|>"
CHAT = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer of 259 tokens with a chat template."""
    tokens = [END, PADDING, MASK, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END,
        eos_token=END,
        pad_token=PADDING,
        mask_token=MASK,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT
    return cast("PreTrainedTokenizerBase", tokenizer)
