"""Which process of a run this one is: the first rank does everything, the others only fit."""

from __future__ import annotations

import os


def is_first_rank() -> bool:
    """Say whether this process may write: the first of a distributed run, or the only one."""
    return all(
        int(os.environ.get(name, "0")) == 0 for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    )


class FitIsOver(BaseException):
    """Takes a rank other than the first out of its stage: the rest is not its business."""

    def __init__(self, *, complete: bool) -> None:
        super().__init__()
        self.complete = complete
