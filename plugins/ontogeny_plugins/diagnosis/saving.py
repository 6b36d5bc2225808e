"""New tokens: how much shorter they make the text of a domain, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from ontogeny.adapter import Adapter
from ontogeny.data.corpus import Corpus
from ontogeny.intervals import ratio_interval
from ontogeny_plugins.diagnosis.measuring import Interval
from ontogeny_plugins.diagnosis.sampling import TEXT, Sample, data_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.stage import StageContext


@dataclass(frozen=True)
class Saving:
    """What an adapter's new tokens would bring on held-out text, against what they cost."""

    adapter: str  # its name in the config
    tokens: int  # new ones
    saved: Interval  # share of the tokens of domain text
    saved_general: float  # the same of general text
    parameters: int  # new ones, in input and output embeddings
    dearer: float  # relative rise of the computation for one token
    pass_tokens: float  # tokens in one pass over the whole text of the domain

    @property
    def net(self) -> float:
        """Share of the computation for domain text that is saved: fewer tokens, each dearer."""
        return 1 - (1 - self.saved.value) * (1 + self.dearer)

    def needed(self, net: float) -> float:
        """Return the share of tokens that must be saved for this net saving."""
        return 1 - (1 - net) / (1 + self.dearer)

    @property
    def break_even(self) -> float | None:
        """Tokens to serve until one more pass of training over the domain has paid for itself.

        A token costs 6 operations for each parameter in training and 2 when it is served, of
        which the net share is saved: 6 · pass = 2 · net · served. None where nothing is saved.
        """
        return 3 * self.pass_tokens / self.net if self.net > 0 else None


def extenders(context: StageContext) -> Iterator[tuple[str, Adapter]]:
    """Yield the adapters of the stage that change the tokenizer, with their names."""
    for name, options in context.config.adapter.items():
        adapter = cast("Adapter", context.registry.build(options))
        if type(adapter).extend is not Adapter.extend:
            yield name, adapter


def measure_saving(
    context: StageContext,
    name: str,
    adapter: Adapter,
    bundle: Bundle,
    domain: Sample,
    general: Sample,
    resamples: int,
) -> Saving:
    """Let an adapter extend the tokenizer for the domain, and measure on held-out text."""
    corpus = Corpus(
        data_of([domain], context.config.data, {}), TEXT, context.store, context.announce
    )
    tokenizer = bundle.tokenizer
    extended = adapter.extend(tokenizer, corpus)
    before_N, after_N = (_lengths(domain.measured, each) for each in (tokenizer, extended))
    left, low, high = ratio_interval(after_N, before_N, resamples)
    elsewhere = [_lengths(general.measured, each).sum() for each in (tokenizer, extended)]
    tokens = len(extended) - len(tokenizer)
    parameters, dearer = cost(bundle.model, len(extended))
    return Saving(
        adapter=name,
        tokens=tokens,
        saved=Interval(1 - left, 1 - high, 1 - low),
        saved_general=1 - float(elsewhere[1] / elsewhere[0]),
        parameters=parameters,
        dearer=dearer,
        pass_tokens=float(before_N.mean() * domain.rows),
    )


def cost(model: PreTrainedModel, tokens: int) -> tuple[int, float]:
    """Return the parameters that so many tokens in all add, and the relative rise of work for one.

    Rows that the model has to spare, as padding, are used first and cost nothing more. Every
    parameter is one multiplication for each token, but for an input embedding of its own, in which
    a token only looks up its row.
    """
    embedding = model.get_input_embeddings()
    rows, width = (int(size) for size in _weight(embedding).shape)
    output = model.get_output_embeddings()
    tied = output is None or _weight(output) is _weight(embedding)
    total = sum(parameter.numel() for parameter in model.parameters())
    multiplied = total if tied else total - rows * width
    added = max(0, tokens - rows) * width
    return added * (1 if tied else 2), added / multiplied


def _weight(layer: nn.Module) -> nn.Parameter:
    return layer.weight  # type: ignore[return-value]  # of any embedding and output layer


def _lengths(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the number of tokens of each text, [N] float64."""
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return np.array([len(ids) for ids in encoded], dtype=np.float64)
