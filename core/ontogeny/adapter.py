"""The contract of an adapter: it changes a model before training and settles it afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.head import Head
    from ontogeny.objective import Batch
    from ontogeny.preflight import Proof


@dataclass
class Bundle:
    """A model with all that belongs to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head: Head


class Adapter(ABC):
    """A change to a model around its training; several apply in order."""

    # Whether a freshly applied adapter computes the same function as the model before.
    keeps_function: bool = True

    @abstractmethod
    def apply(self, bundle: Bundle) -> Bundle:
        """Change the bundle before training."""

    @abstractmethod
    def settle(self, bundle: Bundle) -> Bundle:
        """Merge the change, or leave it to be saved beside; the result must be savable."""

    def proofs(self, bundle: Bundle, batch: Batch) -> Iterable[Proof]:
        """Return the adapter's own preflight proofs."""
        del bundle, batch
        return ()
