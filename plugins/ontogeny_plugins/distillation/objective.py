"""Distillation of causal models, from a teacher in memory or from what was kept of one."""
# B rows, T tokens, N labelled positions, K kept tokens, C positions of a chunk, V vocabulary

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from ontogeny.annotations import Recorded
from ontogeny.attention import is_causal, model_inputs
from ontogeny.chat.answers import answer_examples, answer_text
from ontogeny.chat.rendering import Rendered
from ontogeny.data.collation import collate_tokens
from ontogeny.data.documents import causal_examples
from ontogeny.logit_loss import slices
from ontogeny.objective import IGNORED, Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny.output_layer import label_states
from ontogeny.preflight import Proof, future_proof, vocabulary_proof
from ontogeny_plugins.distillation.features import Features
from ontogeny_plugins.distillation.lesson import IDS, LOG_PROBS, REST, Lesson
from ontogeny_plugins.distillation.row_losses import top_of
from ontogeny_plugins.distillation.teacher import require_same_tokens, teacher_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.chat.template import ChatTemplate
    from ontogeny.companions import Companion, Companions
    from ontogeny.data.corpus import Corpus
    from ontogeny_plugins.distillation import Distillation

SMALL_VOCABULARY = 2**16  # whose ids fit into two bytes
ANNOTATED_ROWS = 256  # positions whose logits are there at once while a teacher is read


class DistillationObjective(Objective):
    """Trains on texts, or on the answers of rows, with what a teacher says of them."""

    columns: ClassVar[Sequence[Sequence[str]]] = (
        ("messages",),
        ("prompt", "completion"),
        ("text",),
    )
    long_examples: ClassVar[LongExamples] = "truncate"
    packs: ClassVar[bool] = True

    def __init__(self, config: Distillation) -> None:
        self.config = config
        features = Features(config.layers, config.hidden, config.attention)
        self.lesson = Lesson(config, features)
        self._companion: Companion | None = None

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Say of each source what its rows are read as; texts alone may be split into rows."""
        kinds = {name: kind_of(next(corpus.rows(name), {})) for name in corpus.names}
        if {*kinds.values()} <= {("text",)}:
            self.long_examples = "split"  # type: ignore[misc]  # of these data
        for name, columns in kinds.items():
            corpus.announce(f"data: rows of {name} are read as {' + '.join(columns)}")
        return {"kinds": {name: list(columns) for name, columns in kinds.items()}}

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Yield input_ids and aligned labels: every token of a text, or the answers of a row.

        Raises RowError for a row that cannot be rendered, or of which no token is trained.
        """
        if all("messages" not in row and "prompt" not in row for row in rows):
            start, end = self.config.document_start, self.config.document_end
            texts = [str(row["text"]) for row in rows]
            return causal_examples(texts, tokenizer, start=start, end=end)
        return answer_examples(rows, tokenizer, self._rendered)

    def begin(self, companions: Companions) -> None:
        """Take the teacher; raise ConfigError where there is none, or one with other tokens."""
        config = self.config
        if config.kept is not None and companions.teacher is None:
            return
        self._companion = teacher_of(companions)
        require_same_tokens(companions, self._companion)
        if config.teacher == "memory":
            self.lesson.begin(companions)

    def annotator(self) -> Companion | Recorded | None:
        """Return the teacher that reads all rows once, or what was kept of one."""
        if self.config.teacher == "memory":
            return None
        if self.config.kept is not None:
            folder = Path(self.config.kept).expanduser()
            return Recorded("objective.kept", folder, self._companion)
        return self._companion

    def annotation_options(self) -> Mapping[str, object]:
        """Return how many tokens are kept, and at which temperature."""
        return {"top": self.config.top, "temperature": self.config.temperature}

    def annotate(self, model: nn.Module, batch: Batch) -> Batch:
        """Return the likeliest tokens, their log p and that of all others together.

        [B, T, K] integers, [B, T, K] and [B, T] float16; 0 where there is no label.
        """
        labels_BT = batch["labels"]
        hidden_ND, _, layer = label_states(model, model_inputs(model, batch), labels_BT)
        parts = [
            top_of(layer(hidden_ND[rows]), self.config.temperature, self.config.top)
            for rows in slices(max(1, len(hidden_ND)), ANNOTATED_ROWS)
        ]
        ids_NK, log_p_NK, rest_N = (torch.cat(each) for each in zip(*parts, strict=True))
        small = layer.vocabulary <= SMALL_VOCABULARY
        labelled_BT = labels_BT != IGNORED
        ids_BTK = _placed(ids_NK.int(), labelled_BT)
        return {
            IDS: ids_BTK.to(torch.uint16) if small else ids_BTK,
            LOG_PROBS: _placed(log_p_NK.half(), labelled_BT),
            REST: _placed(rest_N.clamp(min=-torch.finfo(torch.float16).max).half(), labelled_BT),
        }

    def auxiliary(self, bundle: Bundle) -> nn.Module | None:
        """Return the projections of the student's states, where they are matched."""
        return self.lesson.auxiliary(bundle)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest row: input_ids and labels [B, T], and what was kept of a teacher."""
        return collate_tokens(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ over labelled tokens of the mix of losses, and their number."""
        return self.lesson.loss(model, batch, batch["labels"])

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model is causal, that chunks equal its logits, and what is kept."""
        yield future_proof(model, batch, causal=is_causal(model))
        yield vocabulary_proof(model, batch)
        yield self.lesson.same_proof(batch, batch["labels"])

    def _rendered(self, row: Row, template: ChatTemplate | None) -> Rendered:
        """Return the text of a row with its answers marked; a text is an answer as a whole."""
        if "messages" not in row and "prompt" not in row:
            text = str(row["text"])
            return Rendered(text, [(0, len(text))], is_bare=True)
        return answer_text(row, template, self.config.loss_on)


def kind_of(row: Mapping[str, object]) -> Sequence[str]:
    """Return the columns that a row is read by."""
    columns = DistillationObjective.columns
    return next((each for each in columns if set(each) <= set(row)), ("text",))


def _placed(values_N: Tensor, labelled_BT: Tensor) -> Tensor:
    """Put values of labelled positions into their places, 0 elsewhere."""
    shape = (*labelled_BT.shape, *values_N.shape[1:])
    placed = torch.zeros(shape, dtype=values_N.dtype, device=values_N.device)
    placed[labelled_BT] = values_N
    return placed
