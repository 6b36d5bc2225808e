"""What all methods on a model's own answers share: draw, score, and learn from them."""
# A answers, T tokens of the longest answer, M tokens of all answers, N tokens of a batch

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn

from ontogeny.attention import attention_window, is_causal, model_inputs
from ontogeny.errors import ConfigError, DivergedError
from ontogeny.generation import Decoding, require_generation
from ontogeny.models import longest_context
from ontogeny.objective import Batch, Example, LongExamples, OnlineObjective, Row
from ontogeny.output_layer import label_states
from ontogeny.preflight import Proof
from ontogeny.reward import Rewards
from ontogeny.stage import Sample
from ontogeny.vocabulary_loss import state_log_probs
from ontogeny_plugins.reinforcement.answers import Answers, microbatches, with_columns
from ontogeny_plugins.reinforcement.engines import Engine, engine_of
from ontogeny_plugins.reinforcement.estimators import Total, k3
from ontogeny_plugins.reinforcement.memory import Held, held_beside, memory_table
from ontogeny_plugins.reinforcement.prompts import (
    COLUMNS,
    Prompt,
    collate_prompts,
    prompt_examples,
    prompts_of,
)
from ontogeny_plugins.reinforcement.reference import Reference, in_eval_mode
from ontogeny_plugins.reinforcement.samples import SampleTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import lightning as L
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny.output_layer import OutputLayer
    from ontogeny_plugins.reinforcement import Rollouts

TOLERANCE = 1e-3  # nats: of the preflight, in float32
FEW = 4  # tokens of the preflight's answers


@dataclass
class Rollout:
    """The answers of a step with all that is known of them before the first update."""

    answers: Answers
    rewards_A: Tensor  # as the model is trained on: scaled, clipped, and what a cut answer gets
    log_probs_M: Tensor  # of the model that drew, at the temperature of the draw
    reference_M: Tensor
    flat: dict[str, Tensor] = field(default_factory=dict)  # columns of the batches, [M]
    by_answer: dict[str, Tensor] = field(default_factory=dict)  # numbers to report, [A]

    @property
    def log_ratios(self) -> Tensor:
        """Log π - log π_ref of every token."""
        return self.log_probs_M - self.reference_M


class RolloutObjective(OnlineObjective):
    """Trains on rows with a prompt; every step draws answers, scores them, and updates."""

    columns: ClassVar[Sequence[Sequence[str]]] = COLUMNS
    long_examples: ClassVar[LongExamples] = "leave_out"  # a prompt without its end is another one

    def __init__(self, config: Rollouts) -> None:
        self.options = config
        self.max_kl, self.max_tokens = config.max_kl, config.max_tokens
        self.total = Total()
        self.table = SampleTable()

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Yield the tokens of each prompt, [P], and its row."""
        yield from prompt_examples(rows, tokenizer)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return prompts and their rows, padded."""
        return collate_prompts(examples)

    def begin(self, companions: Companions) -> None:
        """Take the rewards and the reference."""
        self.companions = companions
        self.rewards = Rewards(companions.config.reward, companions.registry)
        self.packs_rows = companions.config.data.packing
        self.reference = Reference(self._reference_kind(), companions)

    def auxiliary(self, bundle: Bundle) -> nn.Module | None:
        """Check the model, let the rewards begin, and say what is held in memory."""
        self._check(bundle)
        self.engine: Engine = engine_of(self.options.engine, bundle)
        self.share = self.options.share_prompt and self._can_share(bundle)
        self.rewards.begin(self.companions)
        beside = self.trained_beside(bundle)
        held = held_beside(self.reference, beside, self._beside_name(), self.rewards)
        model = cast("nn.Module", bundle.model)
        for line in memory_table([Held("policy", type(model).__name__, [model]), *held]):
            self.companions.announce(line)
        return beside

    def trained_beside(self, bundle: Bundle) -> nn.Module | None:
        """Return what is trained beside the model, such as a value model."""
        del bundle
        return None

    def callbacks(self, steps: int) -> Iterable[L.Callback]:
        """Return what keeps the table of samples."""
        del steps
        return [self.table]

    def samples(self) -> list[Sample]:
        """Return answers of the first and of the last step, with their rewards."""
        return self.table.samples()

    def experience(self, policy: nn.Module, batches: Sequence[Batch]) -> Iterator[list[Batch]]:
        """Draw answers to the prompts of all batches, score them, and yield the updates."""
        _without_dropout(policy)
        seed = int(torch.randint(2**31, ()))
        prompts = [prompt for batch in batches for prompt in prompts_of(batch)]
        device = batches[0]["input_ids"].device
        rollout = self.roll_out(policy, prompts, self.max_tokens, seed, device)
        self.observe(rollout)
        yield from self._updates(rollout, seed)

    def observe(self, rollout: Rollout) -> None:
        """Look at the answers of a step; raise DivergedError where training makes no sense."""
        self._stop_if_diverged(rollout)
        self.table.add(rollout.answers, rollout.by_answer)

    @torch.no_grad()
    def roll_out(
        self,
        policy: nn.Module,
        prompts: Sequence[Prompt],
        max_tokens: int,
        seed: int,
        device: torch.device,
    ) -> Rollout:
        """Return drawn answers with everything that the updates need."""
        options = self.options
        decoding = Decoding(max_tokens, options.rollout_batch_size, options.temperature, seed)
        asked = [prompt.tokens for prompt in prompts for _ in range(options.samples)]
        written = self.engine.draw(asked, decoding)
        answers = Answers(prompts, options.samples, written, device)
        scores = self.rewards.score(answers.completions)
        rollout = self._scored(policy, answers, torch.from_numpy(scores.total_N).float().to(device))
        for name, values_A in scores.by_name.items():
            found_A = torch.from_numpy(values_A).float().to(device)
            rollout.by_answer[f"reward_{name}"] = found_A
        self.finish(rollout)
        rollout.flat |= {"old_log_probs": rollout.log_probs_M, "owners": answers.owners_M}
        return rollout

    def first_pass(
        self, policy: nn.Module, batch: Batch, *, wants_log_probs: bool
    ) -> dict[str, Tensor]:
        """Return what a rollout keeps of each labelled token before the first update, [N] each.

        `log_probs` where wanted; all else becomes a column of the batches that `loss` is given.
        """
        return {"log_probs": self.scores(policy, batch)} if wants_log_probs else {}

    @abstractmethod
    def finish(self, rollout: Rollout) -> None:
        """Add to a rollout's columns what the loss reads, such as `advantages`, [M]."""

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return log p of the labelled tokens at the temperature of the draw, [N]."""
        return self.log_probs(*self.states(model, batch))

    def states(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, OutputLayer]:
        """Return the states that predict the labelled tokens, [N, D], these, and the layer."""
        return label_states(model, model_inputs(model, batch), batch["labels"])

    def log_probs(self, hidden_ND: Tensor, labels_N: Tensor, layer: OutputLayer) -> Tensor:
        """Return log p of tokens, given `states`, at the temperature of the draw: [N]."""
        return state_log_probs(hidden_ND, labels_N, layer, temperature=self.options.temperature)

    def metrics(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what was found of a batch's answers, as sums with their number."""
        count = batch["answers"].sum()
        names = [name for name in batch if name.startswith("answer_")]
        return {name.removeprefix("answer_"): (batch[name].sum(), count) for name in names}

    def batches(self, answers: Answers, groups: Sequence[int]) -> list[Batch]:
        """Return the answers to some prompts in batches, on the device."""
        if len(groups) == len(answers.prompts) and answers.batches:
            return answers.batches
        tokens = self.options.microbatch_tokens
        examples = answers.examples(groups, tokens, share=self.share)
        device = answers.lengths_A.device
        found = [
            {name: tensor.to(device) for name, tensor in batch.items()}
            for batch in microbatches(examples, tokens, packs=self.packs_rows)
        ]
        if len(groups) == len(answers.prompts):
            answers.batches = found
        return found

    def over_tokens(
        self, answers: Answers, scores: Callable[[Batch], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return what `scores` finds of every token, [M] each, a batch at a time."""
        found: dict[str, Tensor] = {}
        for batch in self.batches(answers, range(len(answers.prompts))):
            places_N = with_columns(batch, {})["places"]
            for name, values_N in scores(batch).items():
                if name not in found:
                    found[name] = values_N.new_zeros(len(answers.owners_M), dtype=torch.float32)
                found[name][places_N] = values_N.float()
        return found

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the ratio begins at 1, and the divergence at 0."""
        device = batch["input_ids"].device
        prompts = prompts_of(batch)[:2]
        rollout = self.roll_out(model, prompts, FEW, 0, device)
        update = next(iter(self._updates(rollout, 0)))
        with torch.no_grad(), in_eval_mode(model):
            losses = [self.loss(model, each).total for each in update]
            gaps = [
                (self.scores(model, each) - each["old_log_probs"]).abs().max() for each in update
            ]
        far = float(torch.stack(gaps).max())
        evidence = f"log-probabilities are {far:.1e} away from those of the draw"
        finite = bool(torch.isfinite(torch.stack(losses)).all())
        yield Proof("the first ratio is 1", finite and far <= TOLERANCE, evidence)
        if self.reference.kind == "none":
            return
        kl = float(rollout.log_ratios.abs().max())
        if self.companions.teacher is not None:
            evidence = f"the reference is teacher.source, {kl:.1e} nats away at most"
            yield Proof("the divergence begins at 0", None, evidence)
            return
        evidence = f"{kl:.1e} nats of a token at most"
        yield Proof("the divergence begins at 0", kl <= TOLERANCE, evidence)

    def _reference_kind(self) -> str:
        return self.options.reference

    def _scored(self, policy: nn.Module, answers: Answers, scores_A: Tensor) -> Rollout:
        sampled = torch.tensor(
            [each for answer in answers.written for each in answer.log_probs or []],
            device=scores_A.device,
        )

        wants_log_probs = not self._trusts(sampled, policy)

        def scores(batch: Batch) -> dict[str, Tensor]:
            found = dict(self.first_pass(policy, batch, wants_log_probs=wants_log_probs))
            if self.reference.kind != "none":
                found["reference"] = self.reference.log_probs(policy, batch, self.scores)
            return found

        with in_eval_mode(policy):
            found = self.over_tokens(answers, scores)
        log_probs_M = found.pop("log_probs", sampled)
        reference_M = found.pop("reference", log_probs_M)
        rewards_A = self._shaped(scores_A, answers)
        rollout = Rollout(answers, rewards_A, log_probs_M, reference_M, found)
        kl_A = answers.sums(rollout.log_ratios)
        rollout.by_answer = {
            "reward": scores_A,
            "kl": kl_A,
            "kl_k3": answers.sums(k3(rollout.log_ratios)),
            "nats_per_token": -answers.sums(log_probs_M) / answers.lengths_A,
            "tokens": answers.lengths_A.float(),
            "ended": answers.ended_A.float(),
        }
        return rollout

    def _trusts(self, sampled: Tensor, policy: nn.Module) -> bool:
        """Say whether log p of the draw is that of the training, to the last bits."""
        if len(sampled) == 0 or self.options.log_probs == "recomputed":
            return False
        device = next(policy.parameters())
        exact = device.dtype == torch.float32 and not torch.is_autocast_enabled(device.device.type)
        return self.options.log_probs == "sampled" or (self.options.engine == "local" and exact)

    def _shaped(self, scores_A: Tensor, answers: Answers) -> Tensor:
        options = self.options
        rewards_A = scores_A * options.reward_scale
        if options.reward_clip is not None:
            rewards_A = rewards_A.clamp(-options.reward_clip, options.reward_clip)
        if options.no_eos == "replace":
            return torch.where(answers.ended_A, rewards_A, options.no_eos_reward)
        if options.no_eos == "subtract":
            return rewards_A - abs(options.no_eos_reward) * (~answers.ended_A)
        return rewards_A

    def _updates(self, rollout: Rollout, seed: int) -> Iterator[list[Batch]]:
        """Yield every pass over the answers, in parts, as one optimiser step each."""
        groups = len(rollout.answers.prompts)
        generator = torch.Generator().manual_seed(seed)
        parts = min(self.options.minibatches, groups)
        for _ in range(self.options.epochs):
            order = torch.randperm(groups, generator=generator) if parts > 1 else range(groups)
            for part in range(parts):
                members = [int(group) for group in order[part::parts]]
                yield [
                    self._complete(batch, rollout)
                    for batch in self.batches(rollout.answers, members)
                ]

    def _complete(self, batch: Batch, rollout: Rollout) -> Batch:
        """Add what the loss reads of the tokens of a batch, and what is known of its answers."""
        batch = with_columns(batch, rollout.flat)
        owners_N = batch["owners"]
        answers = owners_N.unique()
        batch["owners"] = torch.searchsorted(answers, owners_N)
        batch["answers"] = torch.ones(len(answers), device=owners_N.device)
        for name, values_A in rollout.by_answer.items():
            batch[f"answer_{name}"] = values_A[answers]
        return batch

    def _stop_if_diverged(self, rollout: Rollout) -> None:
        if self.max_kl is None:
            return
        sums = torch.stack([rollout.log_ratios.sum(), rollout.answers.lengths_A.sum().float()])
        kl, tokens = self.total(sums).tolist()
        if kl / tokens <= self.max_kl:
            return
        msg = (
            f"the model has left its reference by {kl / tokens:.3g} nats a token, more than "
            f"objective.max_kl={self.max_kl}: lower optimizer.lr, raise objective.kl, or "
            f"set objective.max_kl=null to go on all the same"
        )
        raise DivergedError(msg)

    def _check(self, bundle: Bundle) -> None:
        model = cast("nn.Module", bundle.model)
        require_generation(bundle.model, "this objective")
        if bundle.model.config.is_encoder_decoder or not is_causal(model):
            msg = f"a {type(model).__name__} does not go on from a prompt: take a causal model"
            raise ConfigError(msg)
        context, longest = longest_context(bundle.model), self.companions.config.data.max_length
        if context is not None and longest + self.max_tokens > context:
            msg = (
                f"data.max_length (of prompts) is {longest} and objective.max_tokens "
                f"{self.max_tokens}, together more than the context of the model: "
                f"{context} (max_position_embeddings); lower one of them"
            )
            raise ConfigError(msg)

    def _can_share(self, bundle: Bundle) -> bool:
        """Say whether several answers may stand in one row after one copy of their prompt."""
        longest = self.companions.config.data.max_length + self.max_tokens
        window = attention_window(cast("nn.Module", bundle.model))
        seen = window is None or window >= longest
        return self.options.samples > 1 and self.packs_rows and seen

    def _beside_name(self) -> str:
        return ""


def _without_dropout(policy: nn.Module) -> None:
    """Let a ratio be that of two models, not of two draws of dropout.

    What computes activations again is told so by its own mode, which stays.
    """
    policy.eval()
    for module in policy.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
