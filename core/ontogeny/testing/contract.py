"""How a broken promise is told: which one, what was measured, how to mend it."""

from __future__ import annotations


class ContractError(AssertionError):
    """A component breaks a promise of its contract; the message is one line."""


def require(holds: bool, who: str, broken: str, mend: str) -> None:
    """Raise ContractError unless a promise holds.

    `who` is the component, `broken` the promise with what was measured, `mend` what to do.
    """
    if not holds:
        line = " ".join(f"{who}: {broken}; {mend}".split())
        raise ContractError(line)
