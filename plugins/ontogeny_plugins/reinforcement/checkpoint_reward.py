"""A reward model's number for an answer, from its own tokens or from the text."""
# B answers of a batch, D width

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from ontogeny.attention import model_inputs
from ontogeny.chat.conversation import UnfitError, conversation_of, require_bare
from ontogeny.chat.encoding import examples_of, special_start
from ontogeny.chat.rendering import Rendered, render
from ontogeny.chat.template import ChatTemplate
from ontogeny.data.collation import collate_tokens
from ontogeny.errors import CheckpointError, ConfigError, RewardError
from ontogeny.reward import Completion, Reward
from ontogeny.token_ids import stop_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.companions import Branch, Companion, Companions
    from ontogeny.objective import Example
    from ontogeny_plugins.reinforcement import CheckpointReward

KEY = "reward.checkpoint.source"
BRANCH = "reward"


class RewardModel(Reward):
    """The number that a model with the head `reward` gives to a conversation."""

    def __init__(self, config: CheckpointReward) -> None:
        self.config = config
        self.model: nn.Module | None = None

    def begin(self, companions: Companions) -> None:
        """Load the model, or put its adapter into the one that is trained."""
        companion = companions.checkpoint(KEY, self.config.source, head="reward")
        self.tokenizer = companion.tokenizer()
        if not self.config.as_text:
            self._require_known_tokens(companion, companions.tokenizer)
        if self.config.share_model and companions.has_adapters:  # else an evaluator asks
            branch = companions.branch(BRANCH, self.config.source)
            self.read: OwnReward | SharedReward = SharedReward(branch)
            return
        self.model = cast("nn.Module", companion.load().model)
        self.read = OwnReward(self.model, self.tokenizer)

    @torch.no_grad()
    def score(self, completions: Sequence[Completion]) -> Sequence[float]:
        """Return what the model says of each answer, in batches of like length."""
        if self.config.as_text:
            ids = self._rendered(completions)
        else:
            ids = [[*each.prompt_tokens, *self._whole(each)] for each in completions]
        found = [0.0] * len(ids)
        order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
        for begin in range(0, len(order), self.config.batch_size):
            part = order[begin : begin + self.config.batch_size]
            for index, value in zip(part, self.read([ids[each] for each in part]), strict=True):
                found[index] = value
        return found

    def _whole(self, completion: Completion) -> Sequence[int]:
        """Return an answer with its end: a reward model has learnt to read there."""
        tokens, stops = completion.tokens, stop_ids(self.tokenizer)
        if not tokens and stops:
            return [min(stops)]
        return tokens

    def _rendered(self, completions: Sequence[Completion]) -> list[list[int]]:
        """Return conversations in the tokens and the template of the reward model."""
        template = ChatTemplate(self.tokenizer) if self.tokenizer.chat_template else None
        # Of an answer without a word no token would be read.
        bare = [template is None and not each.text.strip() for each in completions]
        try:
            texts = [
                _conversation(each, template)
                for each, is_empty in zip(completions, bare, strict=True)
                if not is_empty
            ]
        except UnfitError as error:
            msg = f"{KEY}: the conversation cannot be rendered for the reward model: {error}"
            raise RewardError(msg) from error
        examples = examples_of(texts, self.tokenizer)
        return [
            _unanswered(each, self.tokenizer) if is_empty else _whole_ids(next(examples))
            for each, is_empty in zip(completions, bare, strict=True)
        ]

    def _require_known_tokens(self, companion: Companion, policy: PreTrainedTokenizerBase) -> None:
        """Raise ConfigError where the ids of an answer are other words to the reward model."""
        own = self.tokenizer.get_vocab()
        if policy.get_vocab().items() <= own.items():
            return
        msg = (
            f"{companion.key} has another vocabulary ({len(own)} tokens) than the model that is "
            f"trained ({len(policy)}): the same ids are other words to it; set "
            f"reward.checkpoint.as_text=true to render answers again as text"
        )
        raise ConfigError(msg)


class OwnReward:
    """Reads the reward of a model of its own."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        padding = model.config.get_text_config().pad_token_id  # type: ignore[operator, union-attr]
        self.padding = tokenizer.pad_token_id if padding is None else padding
        if self.padding is None:
            msg = f"{KEY} has no padding token, by which its class finds the end of an answer"
            raise CheckpointError(msg)

    def __call__(self, ids: Sequence[Sequence[int]]) -> list[float]:
        """Return a number for each conversation."""
        batch = _padded(ids, self.padding, next(self.model.parameters()).device)
        output = self.model(**model_inputs(self.model, batch))
        return cast("list[float]", output.logits.float().view(-1).tolist())


class SharedReward:
    """Reads the reward with an adapter on the model that is trained, at the last token."""

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self.weight_D, self.bias = _layer(branch)

    def __call__(self, ids: Sequence[Sequence[int]]) -> list[float]:
        """Return a number for each conversation."""
        model = cast("nn.Module", self.branch.model)
        device = next(model.parameters()).device
        batch = _padded(ids, 0, device)
        body = model.get_submodule(self.branch.model.base_model_prefix)
        with self.branch.on():
            states_BTD = body(**model_inputs(model, batch)).last_hidden_state
        last_B = torch.tensor([len(each) - 1 for each in ids], device=device)
        states_BD = states_BTD[torch.arange(len(ids), device=device), last_B].float()
        with torch.autocast(device.type, enabled=False):
            rewards_B = states_BD @ self.weight_D.to(device) + self.bias.to(device)
        return cast("list[float]", rewards_B.tolist())


def _layer(branch: Branch) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the output layer that stands beside a reward's adapter."""
    weights = {name: each.float() for name, each in branch.beside.items()}
    layers = [name for name, each in weights.items() if each.dim() == 2 and len(each) == 1]
    if len(layers) != 1:
        names = ", ".join(weights) or "none"
        msg = (
            f"{KEY} is an adapter with the weights {names} beside, of which one should be the "
            f"output layer of a reward: train it with head=reward"
        )
        raise CheckpointError(msg)
    bias = weights.get(layers[0].replace("weight", "bias"), torch.zeros(1))
    return weights[layers[0]][0], bias


def _padded(ids: Sequence[Sequence[int]], padding: int, device: torch.device) -> dict[str, Tensor]:
    """Return ids and mask, padded on the right, by which transformers' classes find the end."""
    batch = collate_tokens([{"input_ids": np.array(each)} for each in ids])
    if "attention_mask" in batch:
        batch["input_ids"].masked_fill_(batch["attention_mask"] == 0, padding)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _conversation(completion: Completion, template: ChatTemplate | None) -> Rendered:
    """Return a prompt and its answer as text; the answer may be empty, as no row of data is."""
    names = ("prompt", "tools", "chat_template_kwargs")
    asked = {name: completion.row[name] for name in names if name in completion.row}
    row = {**asked, "completion": "?"}
    if template is None:
        require_bare(row)
        prompt, answer = str(row["prompt"]), completion.text
        return Rendered(
            f"{prompt}{answer}", [(len(prompt), len(prompt) + len(answer))], is_bare=True
        )
    conversation = conversation_of(row, "last")
    answered = {**conversation.messages[-1], "content": completion.text}
    return render(replace(conversation, messages=[*conversation.messages[:-1], answered]), template)


def _unanswered(completion: Completion, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return a bare prompt with nothing but the end behind it."""
    prompt = str(completion.row["prompt"])
    ids = cast("list[int]", tokenizer(prompt, add_special_tokens=False)["input_ids"])
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return [*special_start(tokenizer), *ids, *end]


def _whole_ids(example: Example) -> list[int]:
    """Return all ids of a text: the last one is a label alone."""
    return [*example["input_ids"].tolist(), int(example["labels"][-1])]
