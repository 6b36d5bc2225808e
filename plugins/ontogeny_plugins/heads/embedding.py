"""One vector for a whole text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.head import Head
from ontogeny_plugins.heads.attached import AttachedEmbedding
from ontogeny_plugins.heads.loading import (
    Settings,
    TaskClasses,
    is_decoder,
    load_with_head,
    own_settings,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.options import Model
    from ontogeny_plugins.heads import Embedding


class EmbeddingHead(Head):
    """A backbone that pools; its folder opens with `transformers.AutoModel`, which does not."""

    def __init__(self, config: Embedding) -> None:
        self.config = config

    def load(self, model: Model, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Return the model in float32 and train mode."""
        classes = TaskClasses(lambda _: None, AttachedEmbedding, self._decide, tokenizer)
        return load_with_head(classes, model, tokenizer)

    def _decide(self, config: PreTrainedConfig, own: type | None) -> Settings:
        """Take what the options leave open from the checkpoint."""
        del own
        pooling = "last" if is_decoder(config) else "mean"
        chosen = {"pooling": pooling, "normalise": True}
        chosen |= own_settings(config, AttachedEmbedding.name) or {}
        if self.config.pooling != "auto":
            chosen["pooling"] = self.config.pooling
        if self.config.normalise is not None:
            chosen["normalise"] = self.config.normalise
        return chosen
