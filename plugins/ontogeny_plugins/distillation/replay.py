"""Answers that the student has written, to learn from again (Ko et al. 2024, section 3.2)."""
# N answers, T tokens of all of them

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

import lightning as L
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ontogeny.lightning_module import TrainingModule

STATE = "written_answers"  # key of the training state
Answer = tuple[list[int], list[int]]  # a prompt, and what was written to it


class Replay(L.Callback):
    """Keeps the latest answers; each rank has its own, which are part of the training state.

    Until as many are kept as may be, all answers are new ones; from then on an old one is taken
    with a probability that grows with the training, from 0 to 1.
    """

    def __init__(self, capacity: int, steps: int) -> None:
        self.answers: deque[Answer] = deque(maxlen=capacity)
        self.steps = steps
        self.done = 0  # steps

    @property
    def share(self) -> float:
        """The probability of an old answer."""
        is_full = len(self.answers) == self.answers.maxlen
        return self.done / self.steps if is_full else 0.0

    def add(self, prompt: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep an answer; the oldest goes where there is no room."""
        self.answers.append(([*prompt], [*tokens]))

    def draw(self) -> Answer:
        """Return one of them, by torch's generator."""
        return self.answers[int(torch.randint(len(self.answers), ()))]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Note how far the training is."""
        del trainer, batch, batch_idx
        self.done = cast("TrainingModule", pl_module).consumed

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Add the answers of all ranks to the training state."""
        del pl_module
        own = self._packed()
        every: list[tuple[Tensor, Tensor]] = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(every, own)
        checkpoint[STATE] = every

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Take those of this rank out of the training state."""
        del pl_module
        every = cast("Sequence[tuple[Tensor, Tensor]]", checkpoint[STATE])
        ids_T, lengths_N2 = every[trainer.global_rank % len(every)]
        parts = ids_T.split(lengths_N2.flatten().tolist())
        pairs = zip(parts[::2], parts[1::2], strict=True)
        self.answers.extend((prompt.tolist(), tokens.tolist()) for prompt, tokens in pairs)

    def _packed(self) -> tuple[Tensor, Tensor]:
        """Return the ids of all answers, one behind the other [T], and their lengths [N, 2]."""
        ids = [number for prompt, tokens in self.answers for number in (*prompt, *tokens)]
        lengths = [[len(prompt), len(tokens)] for prompt, tokens in self.answers]
        return torch.tensor(ids, dtype=torch.int32), torch.tensor(lengths).reshape(-1, 2)
