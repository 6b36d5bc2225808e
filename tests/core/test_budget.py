"""`budget.json`: what a stage has taken, over all its attempts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ontogeny.budget import Budget, read_budget


def test_attempts_add_up_also_those_that_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with Budget(tmp_path):
            time.sleep(0.05)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    first = read_budget(tmp_path)
    with Budget(tmp_path):
        time.sleep(0.05)
    both = read_budget(tmp_path)
    assert (first["attempts"], both["attempts"]) == (1, 2)
    assert both["seconds"] >= first["seconds"] + 0.05


def test_memory_is_the_peak_of_the_block(tmp_path: Path) -> None:
    size = 200_000_000
    with Budget(tmp_path / "."):
        block = bytearray(size)
        block[::4096] = b"x" * len(block[::4096])  # so that the system gives the pages
        del block
    peak = read_budget(tmp_path)["memory"]
    (tmp_path / "next").mkdir()
    with Budget(tmp_path / "next"):
        pass
    assert peak - read_budget(tmp_path / "next")["memory"] > 0.8 * size


def test_a_stage_that_was_not_measured_has_no_budget(tmp_path: Path) -> None:
    assert read_budget(tmp_path) == {}
