"""The contract of an objective: rows become examples, examples a batch, a batch a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.annotations import Recorded
    from ontogeny.companions import Companion, Companions
    from ontogeny.data.corpus import Corpus
    from ontogeny.evaluator import Metrics
    from ontogeny.preflight import Proof
    from ontogeny.stage import Sample

Row = Mapping[str, object]  # one record of the user's data, with canonical column names
Example = dict[str, np.ndarray]  # named 1-D arrays; per-token ones have the length of input_ids
Batch = dict[str, "Tensor"]
LongExamples = Literal["split", "truncate", "leave_out"]

IGNORED = -100  # a label that asks for nothing, as in torch.nn.functional.cross_entropy


@dataclass
class Loss:
    """A loss before it is divided: the core divides by the weight of a whole optimiser step.

    `total` (0-d tensor) is a sum over tokens, pairs or rows and `weight` (0-d tensor) their
    number, so that batch size, accumulation and devices change nothing but speed. `metrics` are
    sums over the same things, logged as `sum / weight`; one over other things comes with its own
    weight, as (sum, weight).
    """

    total: Tensor
    weight: Tensor
    metrics: Mapping[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)


class Objective(ABC):
    """What a model is trained for; built as `Implementation(options)`."""

    # Columns that a row must have: any one of these alternatives.
    columns: ClassVar[Sequence[Sequence[str]]] = (("text",),)
    # What to do with an example of more than `data.max_length` tokens (counted and reported):
    # leave_out is for those that say something else without their end, such as pairs.
    long_examples: ClassVar[LongExamples] = "truncate"
    # Whether several examples may share one row of the batch, isolated from each other.
    packs: ClassVar[bool] = False
    # Whether the loss of a row is the same whatever rows share its batch; where rows are told from
    # each other it is not, and data.batch_size is part of what is computed.
    rows_are_independent: ClassVar[bool] = True
    # Special tokens, by transformers' name such as mask_token, that a newly trained tokenizer has.
    special_tokens: ClassVar[Mapping[str, str]] = {}

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Return what must be known of all the data before a row is prepared, such as labels.

        Called once, before `prepare`, with the rows as they are in the files. The result (JSON)
        goes to `Head.configure` and into the key of the prepared data; keep in the objective what
        `prepare` needs of it. Raises DataError for rows that do not fit together.
        """
        del corpus
        return {}

    @abstractmethod
    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Tokenise rows; the result is cached by content and memory-mapped.

        A row may give no, one or several examples. Must depend on nothing but the rows, the
        tokenizer, the options and what `survey` found. Labels are aligned: `labels[t]` is what
        position t predicts. Raises RowError for a row that cannot be used: the core says where it
        stands, or leaves it out.
        """

    def begin(self, companions: Companions) -> None:
        """Take what the loss needs beside the model that is trained, such as a reference.

        Called once, before `annotate`, the preflight and the first step; what is kept in the
        objective does not reach the processes that prepare and collate.
        """
        del companions

    def auxiliary(self, bundle: Bundle) -> nn.Module | None:
        """Return modules that are trained beside the model, such as one that predicts values.

        Called once, when the adapters are in. They are part of the training state, not of the
        checkpoint; the objective keeps them for its loss.
        """
        del bundle
        return None

    def annotator(self) -> Companion | Recorded | None:
        """Return the model that `annotate` is to be called with; none: it is not called.

        It reads all rows once, before the training. The result is kept in the store by its
        digest and the content of the examples, for other runs and points of a sweep too. Recorded:
        it was kept elsewhere, and is taken from there.
        """
        return None

    def annotate(self, model: nn.Module, batch: Batch) -> Batch:
        """Return what another model says of a batch: new columns, [B, T] or [B, T, K].

        They are kept in their own type (bfloat16 as float32) and are part of the batches of `loss`
        under these names, as float32 and int64. Called without gradients; must depend on nothing
        but its arguments and `annotation_options`.
        """
        raise NotImplementedError

    def annotation_options(self) -> Mapping[str, object]:
        """Return the options (JSON) that decide what `annotate` returns: part of its key."""
        return {}

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """Make one batch of CPU tensors, a pure function of the examples."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the loss of one batch as a sum with its weight.

        Randomness comes from torch's generator, which the core seeds for every step.
        """

    def callbacks(self, steps: int) -> Iterable[L.Callback]:
        """Return Lightning callbacks for a fit of so many optimiser steps.

        `pl_module.consumed` counts the steps done, `pl_module.model` is the model. A callback that
        keeps something saves it with the training state (`on_save_checkpoint`).
        """
        del steps
        return ()

    def evaluated(self, results: Mapping[str, Metrics]) -> None:
        """Take what an evaluation in the loop has found (trainer.evaluate_every), by evaluator.

        Called on every rank, before the first step too; what is kept of it goes into the training
        state by a callback.
        """
        del results

    def samples(self) -> Sequence[Sample]:
        """Return what the training has written and would show, such as answers with rewards."""
        return ()

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Return the objective's own preflight proofs, such as a closed form at step 0."""
        del model, batch
        return ()


class OnlineObjective(Objective):
    """An objective that makes its own training data with the model it trains."""

    @abstractmethod
    def experience(self, policy: nn.Module, batches: Sequence[Batch]) -> Iterable[Sequence[Batch]]:
        """Turn the prompts of a step into optimiser steps, each a sequence of batches for `loss`.

        `batches` are those of `trainer.accumulate_grad_batches`. The result may be a generator:
        what it yields later may depend on the model after the steps before. The learning rate is
        that of the step of the data, the same for all of these.
        """
