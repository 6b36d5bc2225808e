"""What is said to the user about an expansion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ontogeny.evaluator import Metric

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

    from ontogeny.evaluator import Metrics
    from ontogeny_plugins.vocabulary.expansion import Expansion
    from ontogeny_plugins.vocabulary.fertility import Fertility

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


def measured(old: Fertility, new: Fertility) -> str:
    """Return a line about texts that nobody trains on, before and after."""
    if not old.words:
        return "vocabulary: no text is held out to measure on"
    return (
        f"vocabulary: on held-out text ({old.bytes / 1e6:.2f} MB) "
        f"{old.tokens_per_word:.3f} → {new.tokens_per_word:.3f} tokens per word, "
        f"{old.tokens_per_byte:.4f} → {new.tokens_per_byte:.4f} tokens per byte"
    )


def metrics(expansion: Expansion, old: Fertility, new: Fertility) -> Metrics:
    """Return the number of new tokens, and what was measured on texts nobody trains on."""
    found = {"new_tokens": Metric(len(expansion), "tokens")}
    if old.words:
        for when, each in (("before", old), ("after", new)):
            found[f"tokens_per_word_{when}"] = Metric(each.tokens_per_word, "tokens/word")
            found[f"tokens_per_byte_{when}"] = Metric(each.tokens_per_byte, "tokens/byte")
    return found
