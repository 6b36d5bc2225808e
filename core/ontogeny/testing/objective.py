"""`check_objective`: everything that a training run relies on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from ontogeny.objective import Objective, OnlineObjective
from ontogeny.seeding import seed_everything
from ontogeny.testing.contract import require
from ontogeny.testing.examples import check_collate, check_prepare
from ontogeny.testing.losses import LossCheck, check_form
from ontogeny.testing.resume import check_resume
from ontogeny.testing.rows import sample_rows
from ontogeny.testing.tensors import equal_batches
from ontogeny.testing.trial import trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from ontogeny.objective import Batch, Row


def check_objective(
    name: str,
    *,
    rows: Sequence[Row] | None = None,
    stage: str = "pretraining",
    overrides: Sequence[str] = (),
) -> None:
    """Raise ContractError for the first promise that an objective breaks.

    `rows` (JSON values, of unequal length) default to samples for the objective's `columns`;
    `stage` names the composition in which it is tried, and `overrides` change that one.
    """
    with trial("objective", name, stage, overrides) as made:
        objective = cast("Objective", made.component)
        rows = sample_rows(objective.columns) if rows is None else rows
        made.survey(objective, rows)
        examples = check_prepare(
            made.who, objective, rows, made.tokenizer, made.folder / "examples"
        )
        examples = made.annotated(objective, examples)
        batch = check_collate(made.who, objective, examples)
        model = made.complete(objective).model
        if isinstance(objective, OnlineObjective):
            _check_experience(made.who, objective, model, batch)
        else:
            LossCheck(made.who, objective, model).run(examples)
        file = made.folder / "rows.jsonl"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        check_resume(made, file)


def _check_experience(
    who: str, objective: OnlineObjective, policy: PreTrainedModel, batch: Batch
) -> None:
    """Check that experience follows the seed, and that `loss` takes it."""

    def updates() -> list[list[Batch]]:
        seed_everything("experience")
        return [list(update) for update in objective.experience(policy, [batch])]

    first, again = updates(), updates()
    mend = "yield, for each optimiser step, a sequence of batches"
    require(bool(first) and all(first), who, "experience yields nothing to learn from", mend)
    equal = [len(update) for update in first] == [len(update) for update in again] and all(
        equal_batches(one, other)
        for left, right in zip(first, again, strict=True)
        for one, other in zip(left, right, strict=True)
    )
    mend = "draw random numbers from torch's generator alone and keep no state"
    require(equal, who, "experience differs between two calls with the same seed", mend)
    for minibatch in (each for update in first for each in update):
        seed_everything("loss")
        check_form(who, objective.loss(policy, minibatch))
