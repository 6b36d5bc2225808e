"""A few answers of the first and of the last step, to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import lightning as L

from ontogeny.stage import Sample

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny.objective import Row
    from ontogeny_plugins.reinforcement.answers import Answers

KEPT = 4  # answers of a step
SHOWN = ("reward", "kl", "tokens", "ended")


class SampleTable(L.Callback):
    """Keeps answers with what is known of them; part of the training state."""

    def __init__(self) -> None:
        self.step = 0
        self.first: list[dict[str, object]] = []
        self.last: list[dict[str, object]] = []

    def add(self, answers: Answers, by_answer: dict[str, Tensor]) -> None:
        """Take the first answers of a step."""
        places = range(0, len(answers), answers.samples)[:KEPT]
        values = {name: by_answer[name][list(places)].tolist() for name in SHOWN}
        self.last = [
            {
                "prompt": shown(answers.prompts[place // answers.samples].row),
                "text": answers.written[place].text,
                "step": self.step,
                **{name: values[name][index] for name in SHOWN},
            }
            for index, place in enumerate(places)
        ]
        self.first = self.first or self.last
        self.step += 1

    def samples(self) -> list[Sample]:
        """Return them; those of the last step only where it is another one."""
        rows = self.first + (self.last if self.step > 1 else [])
        names = ("prompt", "text")
        return [
            Sample(
                str(row["prompt"]),
                str(row["text"]),
                {name: value for name, value in row.items() if name not in names},
            )
            for row in rows
        ]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Add them to the training state."""
        del trainer, pl_module
        checkpoint["samples"] = [self.step, self.first, self.last]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Take them out of the training state."""
        del trainer, pl_module
        kept = cast(
            "tuple[int, list[dict[str, object]], list[dict[str, object]]]", checkpoint["samples"]
        )
        self.step, self.first, self.last = kept


def shown(row: Row) -> str:
    """Return what the last turn of a prompt says."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return prompt
    return str(cast("list[dict[str, object]]", prompt)[-1]["content"])
