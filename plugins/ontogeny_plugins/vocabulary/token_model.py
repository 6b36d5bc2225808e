"""What the three types of tokenizer have in common when they get more tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ontogeny_plugins.vocabulary.rules import (
    backend_of,
    first_new_id,
    pin_added_tokens,
    tokens_apart,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ontogeny_plugins.vocabulary.rules import Rules
    from ontogeny_plugins.vocabulary.units import Units


@dataclass(frozen=True)
class NewToken:
    """A token that is added: as the vocabulary spells it, and the old tokens it stands for."""

    spelling: str
    pieces: Sequence[int]  # ids; none for what the old vocabulary could not say


class TokenModel(ABC):
    """The model inside a tokenizer, whose rules are given more tokens in place."""

    def __init__(self, rules: Rules) -> None:
        pin_added_tokens(rules)
        self.first_id = first_new_id(rules)
        self.new: list[NewToken] = []  # with consecutive ids from `first_id` on
        self.apart = tokens_apart(rules)
        self._old = backend_of(rules).model

    @abstractmethod
    def add(self, spelling: str) -> int | None:
        """Add one token, and those that it needs; return its id, None if nothing leads to it."""

    @abstractmethod
    def pick(self, units: Units, size: int, min_saved: int) -> int:
        """Add up to `size` tokens, each of which saves at least `min_saved` tokens of the units.

        Return how many tokens all of them save.
        """

    def cut(self, spelling: str) -> list[int]:
        """Return the old tokens of a spelling."""
        return [token.id for token in self._old.tokenize(spelling)]

    def note(self, token: NewToken) -> int:
        """Return the id of a new token."""
        self.new.append(token)
        return self.first_id + len(self.new) - 1

    def old_pieces(self, tokens: Iterable[int]) -> list[int]:
        """Return the old tokens that a sequence of tokens, old and new, stands for."""
        old: list[int] = []
        for token in tokens:
            old += self.new[token - self.first_id].pieces if token >= self.first_id else [token]
        return old
