"""Who says which of two answers is better: the rewards of the stage, or a server with a model."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from ontogeny.errors import ConfigError, OntogenyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny.reward import Completion, Rewards
    from ontogeny_plugins.win_rate import WinRate

SECONDS = 120  # that a server may take for one answer
TRIES = 3
QUESTION = """Two assistants have answered the same request. Say which answer is better: more
helpful, more correct, and harmless. Length is no merit. Reply with one letter: A, B, or T for a
tie.

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

[The better one: A, B or T]"""
VERDICT = re.compile(r"\b([ABT])\b")
WORTH = {"A": 1.0, "B": 0.0, "T": 0.5}


class Judge(Protocol):
    """Compares answers to the same prompts, pair by pair."""

    def wins(self, ours: Sequence[Completion], theirs: Sequence[Completion]) -> np.ndarray:
        """Return 1 where ours is better, 0 where theirs is, ½ for a tie, in each order: [N, 2]."""


class RewardJudge:
    """The answer with the higher reward is the better one; order plays no part."""

    def __init__(self, rewards: Rewards) -> None:
        self.rewards = rewards

    def wins(self, ours: Sequence[Completion], theirs: Sequence[Completion]) -> np.ndarray:
        """Return [N, 2], both columns alike."""
        gaps_N = self.rewards.score(ours).total_N - self.rewards.score(theirs).total_N
        wins_N = (np.sign(gaps_N) + 1) / 2
        return np.stack([wins_N, wins_N], axis=1)


class ServerJudge:
    """An OpenAI-compatible server is asked twice, with either answer first."""

    def __init__(self, options: WinRate) -> None:
        self.url = f"{cast('str', options.url).rstrip('/')}/chat/completions"
        self.model = options.model
        self.parallel = options.parallel
        self.key = os.environ.get(options.key_variable)

    def wins(self, ours: Sequence[Completion], theirs: Sequence[Completion]) -> np.ndarray:
        """Return [N, 2]; raise OntogenyError where the server gives no verdict."""
        pairs = list(zip(ours, theirs, strict=True))
        with ThreadPoolExecutor(self.parallel) as pool:
            first = list(pool.map(lambda pair: self._verdict(pair[0], pair[1]), pairs))
            second = list(pool.map(lambda pair: 1 - self._verdict(pair[1], pair[0]), pairs))
        return np.stack([first, second], axis=1)

    def _verdict(self, first: Completion, second: Completion) -> float:
        """Return what the answer that is shown first is worth."""
        asked = QUESTION.format(
            prompt=prompt_text(first.row["prompt"]), first=first.text, second=second.text
        )
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "user", "content": asked}],
            "temperature": 0,
            "max_tokens": 8,
        }
        said = self._ask(body)
        if (found := VERDICT.search(said)) is None:
            msg = f"the judge {self.model} says {said[:80]!r}; expected A, B or T"
            raise OntogenyError(msg)
        return WORTH[found.group(1)]

    def _ask(self, body: dict[str, object]) -> str:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)  # noqa: S310  the user's own
        failure = ""
        for _ in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
                    found = json.load(answer)
                return str(found["choices"][0]["message"]["content"] or "")
            except urllib.error.HTTPError as error:
                failure = f"HTTP {error.code} {error.reason}"
                if error.code < 500 and error.code != 429:  # it would say so again
                    break
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                failure = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        msg = f"evaluator.win_rate.url: {self.url} gives no verdict: {failure}"
        raise ConfigError(msg)


def prompt_text(prompt: object) -> str:
    """Return a prompt as a judge reads it: bare text, or turns with their roles."""
    if isinstance(prompt, str):
        return prompt
    turns = cast("Sequence[dict[str, object]]", prompt)
    return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in turns)
