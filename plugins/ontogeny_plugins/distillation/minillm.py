"""MiniLLM: the reverse KL of whole answers by policy gradient (Gu et al. 2024).

KL(q ‖ p) of answers has the gradient -E_q Σ_t R_t ∇ log q(y_t), R_t = Σ_{t' ≥ t} log p/q (eq. 2).
Its part of the token itself is that of KL(q ‖ p) of one position, known from the whole vocabulary
(eq. 5); what is left is R_{t+1}, divided by its length (eq. 6).
"""
# B rows, T tokens, N written tokens, C positions of a chunk, V vocabulary

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor

from ontogeny.attention import is_causal, model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.generation import Decoding, require_room, write
from ontogeny.logit_loss import BLOCK_ELEMENTS, logit_loss, wide
from ontogeny.objective import IGNORED, Batch, Loss
from ontogeny.output_layer import label_states
from ontogeny.preflight import Proof, future_proof, vocabulary_proof
from ontogeny.vocabulary_loss import label_log_probs
from ontogeny_plugins.distillation.divergences import ReverseKL
from ontogeny_plugins.distillation.teacher import (
    TeacherStates,
    as_module,
    load,
    require_same_tokens,
    shared_vocabulary,
    teacher_of,
)
from ontogeny_plugins.distillation.writing import (
    WritingObjective,
    drawn_seed,
    examples_of_batch,
    on_device,
    prompts_of,
    written_example,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny.generation import Written
    from ontogeny.logit_loss import ChunkedLogits
    from ontogeny_plugins.distillation import MiniLLM

OLD, GAIN, TRUST, WRITTEN = "old_log_probs", "gains", "importance", "written_tokens"  # columns


class MiniLLMObjective(WritingObjective):
    """Every step the student writes, the teacher's log p/q reward it; the data are learned beside.

    Rows come twice: with the student's answer, and with that of the data for its cross-entropy.
    """

    name: ClassVar[str] = "minillm"

    def __init__(self, config: MiniLLM) -> None:
        super().__init__(config.prompt_tokens)
        # All options are read here: the preflight asks which ones nothing reads.
        self.config = replace(config)

    def begin(self, companions: Companions) -> None:
        """Take the teacher; raise ConfigError where there is none, or one with other tokens."""
        super().begin(companions)
        teacher = teacher_of(companions)
        require_same_tokens(companions, teacher)
        self.teacher = load(companions, teacher)

    def experience(self, policy: nn.Module, batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
        """Write an answer to every prompt, and yield as many steps as `updates` on all of them."""
        made = [self._rollout(policy, batch, drawn_seed()) for batch in batches]
        for _ in range(self.config.updates):
            yield made

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the clipped surrogate of what was written, the data's cross-entropy, their number.

        A batch of rows that nobody has written since is learned as data.
        """
        labels_BT = batch["labels"]
        labelled_BT = labels_BT != IGNORED
        zeros = torch.zeros(labelled_BT.shape, device=labels_BT.device)
        old_N, gain_N, trust_N, written_N = (
            batch.get(name, zeros)[labelled_BT] for name in (OLD, GAIN, TRUST, WRITTEN)
        )
        teacher = as_module(self.teacher)
        theirs = TeacherStates(teacher, model_inputs(teacher, batch), labels_BT)
        hidden_ND, labels_N, layer = label_states(model, model_inputs(model, batch), labels_BT)
        vocabulary = shared_vocabulary(layer, theirs.layer)
        rows = Surrogate(
            theirs.logits(vocabulary),
            labels_N,
            Rollout(old_N, gain_N, trust_N, written_N),
            single_step=self.config.single_step,
            clip=self.config.clip,
            cross_entropy=self.config.cross_entropy,
        )
        small = max(1, BLOCK_ELEMENTS // vocabulary)
        sums = logit_loss(hidden_ND, layer, rows, vocabulary=vocabulary, chunk_rows=small)
        total, reverse, nats = sums.unbind()
        written, data = written_N.sum(), (1 - written_N).sum()
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {
            "reverse_kl": (reverse, written),
            "nats_per_token": (nats, data),
        }
        return Loss(total, written + self.config.cross_entropy * data, metrics)

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model is causal and its chunked loss exact."""
        yield future_proof(model, batch, causal=is_causal(model))
        yield vocabulary_proof(model, batch)

    def _rollout(self, policy: nn.Module, batch: Batch, seed: int) -> Batch:
        """Return rows that the student has written, and those of the data, with what they gain."""
        prompts = prompts_of(batch)
        answers = self._write(prompts, seed)
        examples = [
            written_example(prompt, answer.tokens)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        rows = on_device(collate_tokens(examples), batch["input_ids"])
        training = policy.training
        policy.eval()
        with torch.no_grad():
            teacher = as_module(self.teacher)
            labels_BT = rows["labels"]
            old_N = label_log_probs(policy, model_inputs(policy, rows), labels_BT)
            taught_N = label_log_probs(teacher, model_inputs(teacher, rows), labels_BT)
        policy.train(training)
        limit = self.config.reward_clip
        rewards_N = (taught_N - old_N).clamp(-limit, limit).cpu().numpy()
        drawn_N = np.concatenate([np.array(answer.log_probs) for answer in answers])
        trust_N = np.exp(old_N.cpu().numpy() - drawn_N)
        start = 0
        for example, answer in zip(examples, answers, strict=True):
            place = slice(start, start + len(answer.tokens))
            start = place.stop
            gains = gains_of(
                rewards_N[place],
                single_step=self.config.single_step,
                length_norm=self.config.length_norm,
            )
            values = {
                OLD: old_N[place].cpu().numpy(),
                GAIN: gains,
                TRUST: trust_N[place],
                WRITTEN: np.ones(len(gains)),
            }
            _place(example, values)
        if self.config.cross_entropy:
            for example in examples_of_batch(batch):
                _place(example, {name: np.zeros(0) for name in (OLD, GAIN, TRUST, WRITTEN)})
                examples.append(example)
        return on_device(collate_tokens(examples), batch["input_ids"])

    def _write(self, prompts: Sequence[Sequence[int]], seed: int) -> list[Written]:
        """Draw from (1-α) q + α p; prompts of one length at a time where the teacher draws too."""
        config, bundle = self.config, cast("Bundle", self.bundle)
        require_room(bundle.model, prompts, config.max_tokens, "objective.max_tokens")
        decoding = Decoding(
            max_tokens=config.max_tokens,
            batch_size=len(prompts),
            temperature=config.sampling_temperature,
            seed=seed,
        )
        if not config.teacher_mix:
            return write(bundle, prompts, decoding)
        found: dict[int, Written] = {}
        for length in sorted({len(prompt) for prompt in prompts}):
            places = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
            mixing = TeacherMix(
                as_module(self.teacher), config.teacher_mix, config.sampling_temperature
            )
            own = Decoding(
                max_tokens=config.max_tokens,
                batch_size=len(places),
                temperature=config.sampling_temperature,
                seed=seed + length,
                processors=[mixing],
            )
            written = write(bundle, [prompts[place] for place in places], own)
            found |= zip(places, written, strict=True)
        return [found[place] for place in range(len(prompts))]


@dataclass(frozen=True)
class Rollout:
    """What is known of every labelled token, [N] each."""

    old_N: Tensor  # log q when it was drawn
    gain_N: Tensor  # of what came after it, and of itself where that is not known exactly
    trust_N: Tensor  # q over the distribution that it was drawn from
    written_N: Tensor  # 1, or 0 for tokens of the data


class Surrogate:
    """A loss of logits: single-step reverse KL, clipped policy gradient, and cross-entropy."""

    def __init__(
        self,
        teacher: ChunkedLogits,
        labels_N: Tensor,
        rollout: Rollout,
        *,
        single_step: bool,
        clip: float,
        cross_entropy: float,
    ) -> None:
        self.teacher, self.labels_N, self.rollout = teacher, labels_N, rollout
        self.single_step, self.clip, self.cross_entropy = single_step, clip, cross_entropy

    def __call__(self, logits_CV: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """Return the loss, the reverse KL and -log p of the data's tokens: [C, 3]."""
        labels_C1 = self.labels_N[rows, None]
        rollout = self.rollout
        trust_C, written_C = rollout.trust_N[rows], rollout.written_N[rows]
        student_CV = logits_CV.to(wide(logits_CV.dtype))
        log_q_CV = student_CV.log_softmax(-1)
        log_p_CV = self.teacher(rows).to(student_CV.dtype).log_softmax(-1)
        terms_CV, slopes_CV = ReverseKL().terms(log_p_CV, log_q_CV)
        chosen_C = log_q_CV.gather(-1, labels_C1).squeeze(-1)
        gain_C = rollout.gain_N[rows] * trust_C
        ratio_C = (chosen_C - rollout.old_N[rows]).exp()
        clipped_C = ratio_C.clamp(1 - self.clip, 1 + self.clip)
        gained_C = torch.minimum(ratio_C * gain_C, clipped_C * gain_C) * written_C
        exact_C = trust_C * written_C * float(self.single_step)
        data_C = self.cross_entropy * (1 - written_C)
        reverse_C = terms_CV.sum(-1)
        if gradient:
            # Of the minimum by log q(label): ratio · gain where the ratio is what is smaller.
            moves_C = ratio_C * gain_C * (ratio_C * gain_C <= clipped_C * gain_C) * written_C
            weight_C1 = (moves_C + data_C)[:, None].to(student_CV.dtype)
            total_C1 = slopes_CV.sum(-1, keepdim=True)
            slopes_CV.mul_(exact_C[:, None])
            slopes_CV.addcmul_(log_q_CV.exp(), weight_C1 - total_C1 * exact_C[:, None])
            slopes_CV.scatter_add_(-1, labels_C1, -weight_C1)
            logits_CV.copy_(slopes_CV)
        loss_C = exact_C * reverse_C - gained_C - data_C * chosen_C
        nats_C = -chosen_C * (1 - written_C)
        return torch.stack([loss_C, reverse_C * written_C, nats_C], -1)


class TeacherMix(LogitsProcessor):
    """Draws from α p + (1-α) q (§2.2, "teacher-mixed sampling"); for prompts without padding."""

    def __init__(self, teacher: nn.Module, share: float, temperature: float) -> None:
        self.teacher, self.share, self.temperature = teacher, share, temperature
        self._cache = DynamicCache()
        self._seen = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores whose softmax at the temperature is the mixture: BV."""
        new_BT = input_ids[:, self._seen :]
        self._seen = input_ids.shape[1]
        with torch.no_grad():
            found = self.teacher(input_ids=new_BT, past_key_values=self._cache, use_cache=True)
        q_BV = (scores.float() / self.temperature).softmax(-1)
        shared = min(scores.shape[-1], found.logits.shape[-1])
        p_BV = torch.zeros_like(q_BV)
        hot_BV = found.logits[:, -1, :shared].float() / self.temperature
        p_BV[:, :shared] = hot_BV.softmax(-1)
        return self.temperature * torch.lerp(q_BV, p_BV, self.share).log()


def gains_of(rewards_T: np.ndarray, *, single_step: bool, length_norm: bool) -> np.ndarray:
    """Return what is summed of rewards log p/q for each token of an answer, [T].

    R_{t+1} beside an exact single step, else R_t; with `length_norm` their mean instead.
    """
    sums_T = rewards_T[::-1].cumsum()[::-1]
    counts_T = np.arange(len(rewards_T), 0, -1)
    if single_step:
        sums_T, counts_T = np.append(sums_T[1:], 0.0), np.append(counts_T[1:], 1)
    return np.asarray(sums_T / counts_T if length_norm else sums_T)


def _place(example: dict[str, np.ndarray], values: dict[str, np.ndarray]) -> None:
    """Add columns with values at the last tokens of a row, which are those that were written."""
    for name, column in values.items():
        placed = np.zeros(len(example["labels"]), np.float32)
        placed[len(placed) - len(column) :] = column
        example[name] = placed
