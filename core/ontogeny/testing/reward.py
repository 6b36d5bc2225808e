"""`check_reward`: a finite number for every answer, whatever answers stand beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ontogeny.errors import RewardError
from ontogeny.reward import Completion, Reward, Rewards
from ontogeny.seeding import seed_everything
from ontogeny.testing.contract import ContractError, require
from ontogeny.testing.trial import trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Row

ANSWERS = ("a short answer.", "", "An answer that goes on for longer than the others do, 42!")
PROMPTS = ("Why?", "What is six times seven?", "Say nothing.")
TOLERANCE = 1e-4  # relative: other padding, other rounding


def check_reward(
    name: str,
    *,
    rows: Sequence[Row] | None = None,
    stage: str = "reinforcement",
    overrides: Sequence[str] = (),
) -> None:
    """Raise ContractError for the first promise that a reward breaks.

    `rows` have a `prompt` and what the reward reads beside it.
    """
    with trial("reward", name, stage, overrides) as made:
        reward, who = cast("Reward", made.component), made.who
        given = [{"prompt": prompt} for prompt in PROMPTS] if rows is None else list(rows)
        lacking = [column for column in reward.columns if any(column not in row for row in given)]
        broken = f"the rows of this check lack the column {', '.join(lacking)}"
        require(not lacking, who, broken, "give it rows: check_reward(..., rows=[...])")
        completions = _completions(given, made.tokenizer)
        reward.begin(made.companions())
        together = _scores(who, reward, completions)
        again = _scores(who, reward, completions)
        mend = "draw no random numbers, and keep no state"
        require(np.array_equal(together, again), who, "two calls score differently", mend)
        alone = np.concatenate([_scores(who, reward, [each]) for each in completions])
        near = np.allclose(together, alone, rtol=TOLERANCE, atol=TOLERANCE)
        broken = f"answers get {alone.tolist()} alone, {together.tolist()} together"
        require(near, who, broken, "let an answer's score depend on nothing but that answer")


def _completions(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Completion]:
    def ids(text: str) -> list[int]:
        return cast("list[int]", tokenizer(text, add_special_tokens=False)["input_ids"])

    return [
        Completion(row, ids(str(row["prompt"])), answer, ids(answer), ended=bool(answer))
        for row in rows
        for answer in ANSWERS
    ]


def _scores(who: str, reward: Reward, completions: Sequence[Completion]) -> np.ndarray:
    seed_everything("reward")
    try:
        with torch.no_grad():
            return Rewards.checked(who, reward.score(completions), completions)
    except RewardError as error:
        raise ContractError(str(error)) from error
