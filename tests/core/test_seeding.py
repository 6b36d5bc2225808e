"""Seeds are a pure function of what they are for."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

from ontogeny.seeding import derive, seed_everything


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002


def test_a_seed_is_the_first_63_bits_of_the_digest_of_its_parts() -> None:
    digest = hashlib.blake2b(b"0/step/7", digest_size=8).hexdigest()
    assert derive(0, "step", 7) == int(digest, 16) // 2
    assert 0 <= derive(0, "step", 7) < 2**63


def test_other_parts_give_other_seeds() -> None:
    seeds = {derive(seed, "step", step) for seed in range(20) for step in range(20)}
    assert len(seeds) == 400


def test_what_was_drawn_before_does_not_matter() -> None:
    seed_everything(1, "step", 5)
    first = draw()
    draw()
    seed_everything(1, "step", 5)
    assert draw() == first


def test_torch_numpy_and_random_are_all_seeded() -> None:
    seed_everything(1, "step", 5)
    first = draw()
    seed_everything(1, "step", 6)
    assert all(one != other for one, other in zip(first, draw(), strict=True))
