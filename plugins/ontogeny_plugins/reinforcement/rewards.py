"""Rewards that are plain functions of an answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ontogeny.errors import ConfigError, DataError
from ontogeny.reward import Completion, Reward

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny_plugins.reinforcement import ExactReward, LengthReward, PatternReward


class Length(Reward):
    """-|tokens - target| / target."""

    def __init__(self, config: LengthReward) -> None:
        self.target = config.target

    def score(self, completions: Sequence[Completion]) -> Sequence[float]:
        """Return at most 0 for each answer."""
        return [-abs(len(each.tokens) - self.target) / self.target for each in completions]


class Pattern(Reward):
    """1 where the expression is found."""

    def __init__(self, config: PatternReward) -> None:
        self.pattern = _compiled("reward.pattern.pattern", config.pattern)

    def score(self, completions: Sequence[Completion]) -> Sequence[float]:
        """Return 1 or 0 for each answer."""
        return [float(self.pattern.search(each.text) is not None) for each in completions]


class Exact(Reward):
    """1 where the answer is what the row says, but for case and the space around it."""

    def __init__(self, config: ExactReward) -> None:
        self.column = config.column
        self.columns = (config.column,)  # type: ignore[misc]  # by its options
        self.extract = None
        if config.extract is not None:
            self.extract = _compiled("reward.exact.extract", config.extract)
            if self.extract.groups == 0:
                msg = (
                    f"reward.exact.extract is {config.extract!r}, which has no group: put what is "
                    f"to be compared into round brackets"
                )
                raise ConfigError(msg)

    def score(self, completions: Sequence[Completion]) -> Sequence[float]:
        """Return 1 or 0 for each answer; raise DataError for a row that does not say."""
        return [float(self._is_right(each)) for each in completions]

    def _is_right(self, completion: Completion) -> bool:
        if self.column not in completion.row:
            known = ", ".join(completion.row)
            msg = (
                f"reward.exact.column is {self.column!r}, which a row lacks; it has {known}: name "
                f"the column that holds what should be answered"
            )
            raise DataError(msg)
        text: str | None = completion.text
        if self.extract is not None:
            found = self.extract.search(completion.text)
            text = found.group(1) if found else None
        expected = str(completion.row[self.column]).strip().casefold()
        return text is not None and text.strip().casefold() == expected


def _compiled(key: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{key} is {pattern!r}, no regular expression: {error}") from error
