"""The tags of words: their names and ids, and the spans that they mark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ontogeny.objective import Row

OUTSIDE = "O"
PREFIXES = "BIESLU"  # begin, inside, end, single; L and U are other names of E and S
SHOWN = 12  # names that a message lists

Span = tuple[str, int, int]  # type, first word, word after the last


@dataclass(frozen=True)
class Tags:
    """All tags in the order of their ids."""

    names: Sequence[str]
    ids: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", {name: number for number, name in enumerate(self.names)})

    @property
    def outside(self) -> int:
        """The id of what marks nothing."""
        return self.ids.get(OUTSIDE, 0)

    @property
    def mark_spans(self) -> bool:
        """Whether tags say where spans begin and go on, as B-PER and I-PER do."""
        marking = [name for name in self.names if name != OUTSIDE]
        return bool(marking) and all(_is_marking(name) for name in marking)

    def id_of(self, tag: object) -> int:
        """Return the id of a tag by its name, or by its number where names are no numbers.

        Raises ValueError, with what a message can go on with, for a tag that there is not.
        """
        name = tag_name(tag)
        if name in self.ids:
            return self.ids[name]
        has_numbers = any(known.isdecimal() for known in self.names)
        if name.isdecimal() and int(name) < len(self.names) and not has_numbers:
            return int(name)
        listed = ", ".join(self.names[:SHOWN]) + ", …" * (len(self.names) > SHOWN)
        raise ValueError(f"tag is {name!r}, which is none of the tags: {listed}")

    def inside(self, number: int) -> int:
        """Return the tag of a word's further tokens: I-PER for B-PER, where there is one."""
        name = self.names[number]
        return self.ids.get(f"I-{name[2:]}", number) if name.startswith("B-") else number


def words_and_tags(row: Row) -> tuple[list[str], list[object]]:
    """Return the words of a row and the tag of each; raise ValueError where they do not fit."""
    words, tags = row["tokens"], row["tags"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"tokens is {_told(words)}; expected a list of words")
    if not isinstance(tags, list):
        raise ValueError(f"tags is {_told(tags)}; expected a list, one for each word")  # noqa: TRY004
    if not words:
        raise ValueError("tokens is empty; expected one word or more")
    if len(words) != len(tags):
        raise ValueError(f"{len(words)} tokens but {len(tags)} tags; expected one for each")
    return cast("list[str]", words), tags


def tag_name(tag: object) -> str:
    """Return the name of a tag; raise ValueError for what is none."""
    if isinstance(tag, bool) or not isinstance(tag, str | int) or tag == "":
        raise ValueError(f"tag is {_told(tag)}; expected text or a whole number")
    return str(tag)


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names; as numbers where all of them are."""
    listed = list(names)
    numbers = all(name.isdecimal() for name in listed)
    return sorted(listed, key=int) if numbers else sorted(listed)


def spans_of(tags: Sequence[str]) -> set[Span]:
    """Return the spans that tags mark, by the rules of conlleval (Tjong Kim Sang, 2000).

    An inside tag that follows no tag of its type begins a span, too.
    """
    spans, start = set(), 0
    before = OUTSIDE
    for place, tag in enumerate([*tags, OUTSIDE]):
        if before != OUTSIDE and (_ends(before) or _begins(before, tag)):
            spans.add((before[2:], start, place))
        if tag != OUTSIDE and _begins(before, tag):
            start = place
        before = tag
    return spans


def _begins(before: str, tag: str) -> bool:
    """Say whether a new span, or none, is where this tag is."""
    return tag[0] in "BSUO" or before == OUTSIDE or _ends(before) or before[2:] != tag[2:]


def _ends(tag: str) -> bool:
    return tag[0] in "ESLU"


def _is_marking(name: str) -> bool:
    return len(name) > 2 and name[0] in PREFIXES and name[1] == "-"


def _told(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
