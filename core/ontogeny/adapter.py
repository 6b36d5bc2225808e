"""The contract of an adapter: it changes a model before training and settles it afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.data.corpus import Corpus
    from ontogeny.evaluator import Metrics
    from ontogeny.head import Head
    from ontogeny.objective import Batch
    from ontogeny.preflight import Proof


@dataclass
class Bundle:
    """A model with all that belongs to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head: Head


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that the optimiser treats in their own way."""

    parameters: Sequence[nn.Parameter]
    lr_ratio: float = 1.0  # of the learning rate that they would have without the group
    weight_decay: float | None = None  # none: as for all others


class Adapter(ABC):
    """A change to a model around its training; several apply in order.

    The core calls `extend`, `apply`, `initialise`, `parameter_groups` and `callbacks` once each
    and in this order before the first step, also when a run goes on from a training state; and
    `settle`, in reverse order of the adapters, after the last one. All must be pure functions of
    their arguments and of torch's seed, so that a run that was cut off finds the same model.
    """

    # Whether a freshly applied adapter computes the same function as the model before, and how far
    # its outputs may be off then, relative to the largest: 0 means bit for bit. Options may decide.
    keeps_function: bool = True
    tolerance: float = 0.0
    # How far `settle` may move the outputs, relative to the largest: weights that are rounded to
    # few bits cannot be exactly what was trained.
    settle_tolerance: float = 1e-4

    def extend(self, tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> PreTrainedTokenizerBase:
        """Return the tokenizer for the data; a changed one must be a copy."""
        del corpus
        return tokenizer

    @abstractmethod
    def apply(self, bundle: Bundle) -> Bundle:
        """Change the bundle before training; whoever extends the tokenizer puts it in here."""

    def initialise(self, bundle: Bundle, batches: Iterable[Batch]) -> None:
        """Set weights of the adapter that depend on data: `batches` are the first of the run."""
        del bundle, batches

    def parameter_groups(self, bundle: Bundle) -> Iterable[ParameterGroup]:
        """Return the trainable parameters that need another learning rate or weight decay."""
        del bundle
        return ()

    def callbacks(self, bundle: Bundle, steps: int) -> Iterable[L.Callback]:
        """Return Lightning callbacks for a fit of so many optimiser steps.

        `on_after_backward` sees the gradients of sums before they are divided and clipped,
        `on_before_zero_grad` those of the step just made. `pl_module.consumed` counts steps done.
        """
        del bundle, steps
        return ()

    @abstractmethod
    def settle(self, bundle: Bundle) -> Bundle:
        """Merge the change, or return a bundle whose head saves it beside; must be savable."""

    def off(self, bundle: Bundle) -> AbstractContextManager[None]:
        """Return a context in which the model computes what it did before `apply`.

        Raises ConfigError where training has changed the model's own weights.
        """
        del bundle
        msg = f"{type(self).__name__} cannot be switched off: the model's own weights are trained"
        raise ConfigError(msg)

    def branch(self, bundle: Bundle, name: str, source: str | None = None) -> Mapping[str, Tensor]:
        """Add another set of the adapter's weights: trained, or those of a folder, frozen.

        A trained one begins as this one does. It acts within `on` alone, and is gone after
        `settle`. Returns what the folder holds beside, by name, such as the weights of its head.
        Raises ConfigError where there can be one set only.
        """
        del bundle, name, source
        msg = (
            f"{type(self).__name__} has one set of weights: the model it trains cannot be another "
            f"one, too"
        )
        raise ConfigError(msg)

    def on(self, bundle: Bundle, name: str) -> AbstractContextManager[None]:
        """Return a context in which the model computes with the weights of a branch."""
        del bundle, name
        raise NotImplementedError

    def proofs(self, bundle: Bundle, batch: Batch) -> Iterable[Proof]:
        """Return the adapter's own preflight proofs."""
        del bundle, batch
        return ()

    def record(self) -> Mapping[str, object]:
        """Return what was done to the model (JSON), for the lineage of its checkpoint."""
        return {}

    def metrics(self) -> Metrics:
        """Return what the adapter has measured; it stands in metrics.json under its name."""
        return {}
