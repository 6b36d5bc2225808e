"""What is said to the user about an expansion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny_plugins.vocabulary.fertility import fertility

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny_plugins.vocabulary.expansion import Expansion

SHOWN = 8  # new tokens


def described(expansion: Expansion, after: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield lines about the new tokens and the text that they were picked from."""
    picked = len(expansion) - expansion.listed - expansion.needed
    parts = [
        *([f"{expansion.listed:,} listed"] if expansion.listed else []),
        *([f"{expansion.needed:,} that those are merged from"] if expansion.needed else []),
        *([f"{picked:,} picked"] if picked else []),
    ]
    if picked < expansion.asked:
        parts[-1] += f" ({expansion.asked:,} were asked for: no other one saves enough)"
    yield f"vocabulary: {len(expansion):,} new tokens: {', '.join(parts)}; {len(after):,} in all"
    shown = [after.decode([number]) for number in expansion.ids[:SHOWN]]
    yield f"vocabulary: such as {', '.join(map(repr, shown))}"
    share = expansion.saved / expansion.tokens
    yield (
        f"vocabulary: they save {expansion.saved:,} of {expansion.tokens:,} tokens ({share:.1%})"
        f" of the text they are for ({expansion.bytes / 1e6:.1f} MB)"
    )


def measured(
    before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, texts: Sequence[str]
) -> str:
    """Return a line about texts that nobody trains on."""
    if not any(text.split() for text in texts):
        return "vocabulary: no text is held out to measure on"
    old, new = fertility(before, texts), fertility(after, texts)
    return (
        f"vocabulary: on held-out text ({old.bytes / 1e6:.2f} MB) "
        f"{old.tokens_per_word:.3f} → {new.tokens_per_word:.3f} tokens per word, "
        f"{old.tokens_per_byte:.4f} → {new.tokens_per_byte:.4f} tokens per byte"
    )
