"""Distillation between tokenizers: both models read one text, and are compared where they meet."""
# B rows, T tokens of the student, U of the teacher, N labelled positions, A aligned ones of them,
# C positions of a chunk, V vocabulary, K tokens that both have

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ontogeny.attention import is_causal, model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.errors import ConfigError, RowError
from ontogeny.logit_loss import BLOCK_ELEMENTS, ChunkedLogits, logit_loss, wide
from ontogeny.models import longest_context
from ontogeny.objective import IGNORED, Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny.output_layer import label_states
from ontogeny.preflight import Proof, future_proof, vocabulary_proof
from ontogeny.tokenizers import load_tokenizer, tokenizer_digest
from ontogeny_plugins.distillation.alignment import (
    NOWHERE,
    POSITIONS,
    TOKENS,
    Reader,
    aligned_example,
    answer_readings,
    shared_tokens,
)
from ontogeny_plugins.distillation.divergences import LOWEST, ForwardKL
from ontogeny_plugins.distillation.objective import DistillationObjective, kind_of
from ontogeny_plugins.distillation.teacher import TeacherStates, as_module, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.companions import Companions
    from ontogeny.data.corpus import Corpus
    from ontogeny_plugins.distillation import CrossTokenizer


class CrossTokenizerObjective(Objective):
    """Learns from a teacher with another tokenizer, on texts and on the answers of rows.

    Each side reads rows in its own chat template, if it has one; answers alone are learned.
    """

    columns: ClassVar[Sequence[Sequence[str]]] = DistillationObjective.columns
    long_examples: ClassVar[LongExamples] = "truncate"

    def __init__(self, config: CrossTokenizer) -> None:
        self.config = config
        self.teacher: nn.Module | None = None
        self.context: int | None = None  # tokens that the teacher can read
        self.has_answers = False

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Name the teacher's tokenizer, which decides how examples are aligned."""
        kinds = {name: kind_of(next(corpus.rows(name), {})) for name in corpus.names}
        for name, columns in kinds.items():
            corpus.announce(f"data: rows of {name} are read as {' + '.join(columns)}")
        self.has_answers = any(columns != ("text",) for columns in kinds.values())
        return {"teacher_tokenizer": tokenizer_digest(self._tokenizer())}

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Yield pieces: input_ids, labels and teacher_positions [T], and teacher_tokens [U]."""
        student = Reader("the student's tokenizer", tokenizer)
        teacher = Reader("objective.teacher_tokenizer", self._tokenizer())
        if all("messages" not in row and "prompt" not in row for row in rows):
            for row in rows:
                yield from self._pieces(str(row["text"]), student, teacher)
            return
        read = student.answers(rows), teacher.answers(rows, "for the teacher: ")
        for index, (row, own, theirs) in enumerate(zip(rows, *read, strict=True)):
            if not own[1].trained_T.any():
                raise RowError(index, "no token of it is trained")
            yield aligned_example(*answer_readings(row, own, theirs))

    def begin(self, companions: Companions) -> None:
        """Take the teacher, and the tokens that both tokenizers have."""
        companion = companions.teacher
        if companion is None:
            raise ConfigError(
                "teacher.source is not set: name the checkpoint folder or Hub name of the teacher"
            )
        own, named = companion.tokenizer(), self._tokenizer()
        if own.get_vocab() != named.get_vocab():
            raise ConfigError(
                f"objective.teacher_tokenizer is {self.config.teacher_tokenizer!r}, which has "
                f"other tokens than the one of {companion.key}; leave it out"
            )
        bundle = load(companions, companion)
        self.teacher, self.context = as_module(bundle), longest_context(bundle.model)
        if self.config.loss == "aligned":
            self.shared = shared_tokens(companions.tokenizer, own, turns=self.has_answers)
            companions.announce(
                f"data: {len(self.shared[0]):,} tokens are spelled alike in both tokenizers"
            )

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad the student's columns, and the teacher's tokens by themselves."""
        own = [{name: each[name] for name in each if name != TOKENS} for each in examples]
        # What the teacher reads behind the last place at which both meet is of no use.
        read = [each[TOKENS][: max(1, int(each[POSITIONS].max()) + 1)] for each in examples]
        theirs = collate_tokens([{"input_ids": tokens} for tokens in read])
        batch = collate_tokens(own)
        mask = theirs.get("attention_mask", torch.ones_like(theirs["input_ids"]))
        batch[POSITIONS] = batch[POSITIONS].masked_fill(batch["labels"] == IGNORED, NOWHERE)
        return {**batch, TOKENS: theirs["input_ids"], f"{TOKENS}_mask": mask}

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ over labelled tokens of cross-entropy and, where aligned, of the divergence."""
        teacher = cast("nn.Module", self.teacher)
        labels_BT, positions_BT = batch["labels"], self._within_context(batch[POSITIONS])
        theirs = self._teacher_states(teacher, batch, positions_BT)
        hidden_ND, labels_N, layer = label_states(model, model_inputs(model, batch), labels_BT)
        aligned_N = positions_BT[labels_BT != IGNORED] != NOWHERE
        rows = FromOtherTokens(
            theirs.logits(theirs.layer.vocabulary),
            labels_N,
            aligned_N,
            None if self.config.loss == "uld" else self.shared,
            temperature=self.config.temperature,
            cross_entropy=self.config.cross_entropy,
        )
        size = max(1, BLOCK_ELEMENTS // layer.vocabulary)
        total, far, nats = logit_loss(hidden_ND, layer, rows, chunk_rows=size).unbind()
        weight, aligned = (labels_BT != IGNORED).sum(), aligned_N.sum()
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {
            "divergence": (far, aligned),
            "nats_per_token": nats,
            "aligned_share": aligned.float(),
        }
        return Loss(total, weight, metrics)

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model is causal, its chunked loss exact, and that texts meet somewhere."""
        own = {name: batch[name] for name in batch if not name.startswith("teacher_")}
        yield future_proof(model, own, causal=is_causal(model))
        yield vocabulary_proof(model, own)
        labelled = int((batch["labels"] != IGNORED).sum())
        aligned = int((batch[POSITIONS] != NOWHERE).sum())
        evidence = f"{aligned} of {labelled} positions"
        yield Proof("both tokenizers meet in the text", aligned > 0, evidence)

    def _pieces(self, text: str, student: Reader, teacher: Reader) -> Iterator[Example]:
        pieces = list(student.pieces(text, self.config.piece_length))
        for number, piece in enumerate(pieces, start=1):
            ends = number == len(pieces)
            readings = student.read(piece, ends=ends), teacher.read(piece, ends=ends)
            yield aligned_example(*readings)

    def _within_context(self, positions_BT: Tensor) -> Tensor:
        """Leave out where the teacher, with more tokens of the same text, cannot have read it."""
        if self.context is None:
            return positions_BT
        return positions_BT.masked_fill(positions_BT >= self.context, NOWHERE)

    def _teacher_states(
        self, teacher: nn.Module, batch: Batch, positions_BT: Tensor
    ) -> TeacherStates:
        """Run the teacher over its own tokens; its states come in the order of the student's."""
        tokens_BU = batch[TOKENS][:, : self.context]
        rows, columns = (positions_BT != NOWHERE).nonzero(as_tuple=True)
        asked_BU = torch.full_like(tokens_BU, IGNORED)
        asked_BU[rows, positions_BT[rows, columns]] = 0
        mask_BU = batch[f"{TOKENS}_mask"][:, : self.context]
        given = {"input_ids": tokens_BU, "attention_mask": mask_BU}
        return TeacherStates(teacher, model_inputs(teacher, given), asked_BU)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        source = self.config.teacher_tokenizer
        if source is None:
            raise ConfigError(
                "objective.teacher_tokenizer is not set; in stage=distillation_cross_tokenizer it "
                "follows teacher.source: choose that stage, and set teacher.source"
            )
        return load_tokenizer("objective.teacher_tokenizer", source)


class FromOtherTokens:
    """A loss of logits with a teacher whose distributions are over other tokens."""

    def __init__(
        self,
        teacher: ChunkedLogits,
        labels_N: Tensor,
        aligned_N: Tensor,
        shared: tuple[Tensor, Tensor] | None,
        *,
        temperature: float,
        cross_entropy: float,
    ) -> None:
        self.teacher, self.labels_N, self.aligned_N = teacher, labels_N, aligned_N
        self.shared = shared  # ids of the student and of the teacher; none: both are sorted
        self.temperature, self.cross_entropy = temperature, cross_entropy
        # How many of the teacher's rows belong to positions before each.
        self.before_N = F.pad(aligned_N.cumsum(0), (1, 0)).tolist()

    def __call__(self, logits_CV: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """Return the loss, the divergence and -log p of the label: [C, 3]."""
        labels_C1, aligned_C = self.labels_N[rows, None], self.aligned_N[rows]
        student_CV = logits_CV.to(wide(logits_CV.dtype))
        cool_CV = student_CV.log_softmax(-1)
        nats_C = -cool_CV.gather(-1, labels_C1).squeeze(-1)
        far_C = torch.zeros_like(nats_C)
        slopes_CV = cool_CV.exp().mul_(self.cross_entropy)
        ones_C1 = torch.full_like(nats_C, self.cross_entropy)[:, None]
        slopes_CV.scatter_add_(-1, labels_C1, -ones_C1)
        last = min(rows.stop, len(self.labels_N))  # a chunk may be empty
        theirs = slice(self.before_N[rows.start], self.before_N[last])
        if theirs.stop > theirs.start:
            hot_AV = (student_CV[aligned_C] / self.temperature).log_softmax(-1)
            teacher_AV = self.teacher(theirs).to(student_CV.dtype) / self.temperature
            compare = sorted_distance if self.shared is None else self._shared_divergence
            far_A, own_AV = compare(teacher_AV.log_softmax(-1), hot_AV)
            far_C[aligned_C] = far_A
            own_AV -= hot_AV.exp() * own_AV.sum(-1, keepdim=True)
            slopes_CV[aligned_C] += own_AV * ((1 - self.cross_entropy) / self.temperature)
        if gradient:
            logits_CV.copy_(slopes_CV)
        loss_C = self.cross_entropy * nats_C + (1 - self.cross_entropy) * far_C
        return torch.stack([loss_C, far_C, nats_C], -1)

    def _shared_divergence(self, log_p_AU: Tensor, log_q_AV: Tensor) -> tuple[Tensor, Tensor]:
        """Return KL(p ‖ q) over the tokens that both have and one bucket for all others.

        It is a lower bound of any divergence over what both could say.
        """
        own_K, their_K = (
            each.to(log_q_AV.device) for each in cast("tuple[Tensor, Tensor]", self.shared)
        )
        buckets = [
            torch.cat([log_AV[:, ids_K], _rest(log_AV, ids_K)], -1).clamp(min=LOWEST)
            for log_AV, ids_K in ((log_p_AU, their_K), (log_q_AV, own_K))
        ]
        terms_AB, slopes_AB = ForwardKL().terms(*buckets)
        # A token of the rest moves its bucket by its share of it.
        slopes_AV = (log_q_AV - buckets[1][:, -1:]).exp() * slopes_AB[:, -1:]
        slopes_AV[:, own_K] = slopes_AB[:, :-1]
        return terms_AB.sum(-1), slopes_AV


def sorted_distance(log_p_AU: Tensor, log_q_AV: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ |p₍ᵢ₎ - q₍ᵢ₎| of both sorted, the shorter one filled up with 0, and its slopes.

    Boizard et al. 2024, "Towards Cross-Tokenizer Distillation", eq. 6.
    """
    q_AV, order_AV = log_q_AV.exp().sort(-1, descending=True)
    p_AU = log_p_AU.exp().sort(-1, descending=True).values
    width = max(q_AV.shape[-1], p_AU.shape[-1])
    far_AW = F.pad(q_AV, (0, width - q_AV.shape[-1])) - F.pad(p_AU, (0, width - p_AU.shape[-1]))
    slopes_AV = far_AW[:, : q_AV.shape[-1]].sign() * q_AV
    return far_AW.abs().sum(-1), torch.zeros_like(q_AV).scatter_(-1, order_AV, slopes_AV)


def _rest(log_AV: Tensor, kept_K: Tensor) -> Tensor:
    """Return the log of what all other tokens have together, [A, 1]."""
    return log_AV.index_fill(-1, kept_K, -torch.inf).logsumexp(-1, keepdim=True)
