"""Randomness as a pure function of what it is for, never of what ran before."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive(*parts: int | str) -> int:
    """Return a 63-bit seed for the given parts; different parts give unrelated seeds."""
    text = "/".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_everything(*parts: int | str) -> None:
    """Seed torch on all devices, numpy and random for the given parts."""
    seed = derive(*parts)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  third-party code uses the global generator
    random.seed(seed)
