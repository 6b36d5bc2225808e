"""Which rows are held out: decided by the content of a row, never by its place in a file."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ontogeny.objective import Row


def row_key(row: Row) -> bytes:
    """Return 16 bytes that depend on the content of a row only (BLAKE2b).

    The content is `text` where there is one, else `prompt`, so that all rows with one prompt go
    together; else the whole row, in whatever order its columns come.
    """
    content = next((row[name] for name in ("text", "prompt") if row.get(name) is not None), row)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=repr)
    return blake2b(canonical.encode(), digest_size=16).digest()


def is_held_out(row: Row, share: float, seed: int = 0) -> bool:
    """Return whether a row is among the held-out `share` (0..1) of all rows.

    The answer is the same in every stage and for every order of the rows, and what a share holds
    out, a larger share of the same seed holds out too.
    """
    salt = seed.to_bytes(16, "little", signed=True)
    draw = blake2b(row_key(row), digest_size=8, salt=salt).digest()
    return int.from_bytes(draw, "big") < share * 2**64
