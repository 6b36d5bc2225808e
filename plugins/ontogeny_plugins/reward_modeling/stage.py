"""Reward modelling: a checkpoint with a reward head learns from pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import AddedToken

from ontogeny.errors import ConfigError
from ontogeny.token_ids import stop_ids
from ontogeny.tokenizers import named_tokenizer
from ontogeny.training_stage import TrainingStage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ontogeny.stage import StageContext
    from ontogeny_plugins.reward_modeling import RewardModeling

PADDING = "<|pad|>"


class RewardModelingStage(TrainingStage):
    """Trains on pairs of a better and a worse answer."""

    def __init__(self, config: RewardModeling) -> None:
        self.config = config

    def tokenizer(self, context: StageContext) -> PreTrainedTokenizerBase:
        """Return the tokenizer of the checkpoint, with padding that is no end of an answer."""
        tokenizer = named_tokenizer(context.config)
        if tokenizer is None:
            msg = (
                "model.source is not set; reward_modeling goes on from a checkpoint folder or Hub "
                "name, best the one whose answers it will judge"
            )
            raise ConfigError(msg)
        if told := separate_padding(tokenizer):
            context.announce(f"tokenizer: {told}")
        if not tokenizer.chat_template:
            context.announce("data: the tokenizer has no chat template: rows are read as bare text")
        return tokenizer


def separate_padding(tokenizer: PreTrainedTokenizerBase) -> str:
    """Let a tokenizer pad with a token that ends nothing; say what was done, if anything was.

    transformers' classes find the last token of a text by the id of the padding token: where that
    is also the end of an answer, they would read the reward one token too early.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in stop_ids(tokenizer):
        return ""
    taken = {*stop_ids(tokenizer), tokenizer.bos_token_id}
    free = [
        str(token)
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and number not in taken and "pad" in str(token).lower()
    ]
    if not free:
        tokenizer.add_tokens([AddedToken(PADDING, special=True)], special_tokens=True)
    tokenizer.pad_token = free[0] if free else PADDING
    return f"padding is {tokenizer.pad_token}, since what it was before ends answers"
