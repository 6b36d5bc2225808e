"""Distillation of causal models: next-token distributions of a teacher in memory, or kept of one."""
# B rows, T tokens, N labelled positions, K kept tokens, C positions of a chunk, V vocabulary

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import torch

from ontogeny.annotations import Recorded
from ontogeny.attention import is_causal, model_inputs
from ontogeny.chat.answers import answer_examples, answer_text
from ontogeny.chat.rendering import Rendered
from ontogeny.data.collation import collate_tokens
from ontogeny.data.documents import causal_examples
from ontogeny.errors import ConfigError
from ontogeny.logit_loss import logit_loss, slices
from ontogeny.objective import IGNORED, Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny.output_layer import label_states
from ontogeny.preflight import Proof, future_proof, vocabulary_proof
from ontogeny_plugins.distillation.divergences import LOWEST, divergence
from ontogeny_plugins.distillation.features import Features, Seen
from ontogeny_plugins.distillation.row_losses import FromLogits, FromTop, Weights, top_of
from ontogeny_plugins.distillation.teacher import (
    TeacherStates,
    as_module,
    load,
    require_same_tokens,
    shared_vocabulary,
    teacher_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.chat.template import ChatTemplate
    from ontogeny.companions import Companion, Companions
    from ontogeny.data.corpus import Corpus
    from ontogeny.logit_loss import RowLoss
    from ontogeny.output_layer import OutputLayer
    from ontogeny_plugins.distillation import Distillation

IDS, LOG_PROBS, REST = "teacher_ids", "teacher_log_probs", "teacher_rest"  # columns of a kept teacher
SMALL_VOCABULARY = 2**16  # whose ids fit into two bytes
ANNOTATED_ROWS = 256  # positions whose logits are there at once while a teacher is read
TOLERANCE = 1e-4  # nats of a token, float32


class DistillationObjective(Objective):
    """Trains on texts, or on the answers of rows that have any, with what a teacher says of them."""

    columns: ClassVar[Sequence[Sequence[str]]] = (
        ("messages",),
        ("prompt", "completion"),
        ("text",),
    )
    long_examples: ClassVar[LongExamples] = "truncate"
    packs: ClassVar[bool] = True

    def __init__(self, config: Distillation) -> None:
        self.config = config
        self.weights = weights_of(config)
        self.features = Features(config.hidden, config.attention, config.layers)
        self.teacher: nn.Module | None = None  # in memory
        self._companion: Companion | None = None

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Say of each source what its rows are read as; texts alone may be split into rows."""
        kinds = {name: _kind(next(corpus.rows(name), {})) for name in corpus.names}
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
            self.teacher = as_module(load(companions, self._companion))

    def annotator(self) -> Companion | Recorded | None:
        """Return the teacher that reads all rows once, or what was kept of one."""
        if self.config.teacher == "memory":
            return None
        if self.config.kept is not None:
            folder = Path(self.config.kept).expanduser()
            if not folder.is_dir():
                raise ConfigError(f"objective.kept is {self.config.kept!r}, which is no folder")
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

    def attach(self, model: nn.Module) -> None:
        """Put projections into the student, where hidden states are matched."""
        if self.features:
            self.features.attach(model, cast("nn.Module", self.teacher))

    def detach(self, model: nn.Module) -> None:
        """Take the projections out."""
        self.features.detach(model)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest row: input_ids and labels [B, T], and what was kept of a teacher."""
        return collate_tokens(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ over labelled tokens of the mix of losses, and their number."""
        return self.loss_of(model, batch, batch["labels"])

    def loss_of(
        self, model: nn.Module, batch: Batch, labels_BT: Tensor, hard_BT: Tensor | None = None
    ) -> Loss:
        """Return the loss where the tokens of `hard_BT` alone, if given, are the data's own."""
        inputs, matched_BT = model_inputs(model, batch), labels_BT != IGNORED
        theirs, their_seen = None, Seen()
        if self.teacher is not None:
            with self._watching(self.teacher, teacher=True) as their_seen:
                theirs = TeacherStates(self.teacher, model_inputs(self.teacher, batch), labels_BT)
        with self._watching(model, teacher=False) as seen:
            hidden_ND, labels_N, layer = label_states(model, inputs, labels_BT)
        hard_N = None if hard_BT is None else hard_BT[matched_BT]
        rows, vocabulary = self._row_loss(batch, layer, labels_N, hard_N, theirs)
        total, far, nats = logit_loss(hidden_ND, layer, rows, vocabulary=vocabulary).unbind()
        hard = matched_BT.sum() if hard_N is None else hard_N.sum()
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {"divergence": far.detach()}
        metrics["nats_per_token"] = (nats.detach(), hard)
        for name, value in self._matched(model, seen, their_seen, matched_BT, batch).items():
            total = total + value
            metrics[name] = value.detach()
        return Loss(total, matched_BT.sum(), metrics)

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model is causal, that chunks equal its logits, and what is kept."""
        yield future_proof(model, batch, causal=is_causal(model))
        yield vocabulary_proof(model, batch)
        yield self._same_proof(batch)

    def _same_proof(self, batch: Batch) -> Proof:
        """Let the teacher learn from itself: there is nothing to learn."""
        name = "a student that is the teacher has no loss"
        if self.teacher is None:
            return Proof(name, None, "the teacher is not in memory")
        labels_BT = batch["labels"]
        with torch.no_grad():
            states = TeacherStates(self.teacher, model_inputs(self.teacher, batch), labels_BT)
            vocabulary = states.layer.vocabulary
            rows = FromLogits(states.logits(vocabulary), states.labels_N, None, self.weights)
            far = logit_loss(states.hidden_ND, states.layer, rows)[1] / max(1, len(states.labels_N))
        return Proof(name, abs(float(far)) < TOLERANCE, f"{float(far):.1e} nats of a token")

    def _matched(
        self, model: nn.Module, seen: Seen, theirs: Seen, matched_BT: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """Return the weighted losses of what blocks have returned."""
        del batch
        found = self.features.losses(model, seen, theirs, matched_BT)
        return {name: getattr(self.config, name) * value for name, value in found.items()}

    def _row_loss(
        self,
        batch: Batch,
        layer: OutputLayer,
        labels_N: Tensor,
        hard_N: Tensor | None,
        theirs: TeacherStates | None,
    ) -> tuple[RowLoss, int]:
        """Return the loss of rows of logits, and how many tokens of the vocabulary it is shown."""
        if theirs is not None:
            vocabulary = shared_vocabulary(layer, theirs.layer)
            teacher = theirs.logits(vocabulary)
            return FromLogits(teacher, labels_N, hard_N, self.weights), vocabulary
        labelled_BT = batch["labels"] != IGNORED
        ids_NK = batch[IDS][labelled_BT]
        kept_NB = torch.cat([batch[LOG_PROBS], batch[REST][..., None]], -1)[labelled_BT]
        # float16 has moved each a little: together they are 1 again.
        log_p_NB = kept_NB.float().log_softmax(-1).clamp(min=LOWEST)
        return FromTop(ids_NK, log_p_NB, labels_N, hard_N, self.weights), layer.vocabulary

    def _watching(self, model: nn.Module, *, teacher: bool) -> AbstractContextManager[Seen]:
        if not self.features:
            return nullcontext(Seen())
        return self.features.watching(model, teacher=teacher)

    def _rendered(self, row: Row, template: ChatTemplate | None) -> Rendered:
        """Return the text of a row with its answers marked; a text is an answer as a whole."""
        if "messages" not in row and "prompt" not in row:
            text = str(row["text"])
            return Rendered(text, [(0, len(text))], is_bare=True)
        return answer_text(row, template, self.config.loss_on)


class _Mix:  # the options that `weights_of` reads
    loss: str
    beta: float
    skew: float
    temperature: float
    scale_by_temperature: bool
    cross_entropy: float


def weights_of(config: object) -> Weights:
    """Return how a loss is put together, out of options that name one."""
    options = cast("_Mix", config)
    squared = options.temperature**2 if options.scale_by_temperature else 1.0
    return Weights(
        divergence(options.loss, options.beta, options.skew),
        options.temperature,
        scale=(1 - options.cross_entropy) * squared,
        cross_entropy=options.cross_entropy,
    )


def _kind(row: Mapping[str, object]) -> Sequence[str]:
    columns = DistillationObjective.columns
    return next((each for each in columns if set(each) <= set(row)), ("text",))


def _placed(values_N: Tensor, labelled_BT: Tensor) -> Tensor:
    """Put values of labelled positions into their places, 0 elsewhere."""
    shape = (*labelled_BT.shape, *values_N.shape[1:])
    placed = torch.zeros(shape, dtype=values_N.dtype, device=values_N.device)
    placed[labelled_BT] = values_N
    return placed
