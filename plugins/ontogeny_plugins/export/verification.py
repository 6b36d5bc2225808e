"""How far an export is from its checkpoint: on real text, and in what it answers."""
# T tokens, V vocabulary

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional as F

from ontogeny.evaluator import Metric, Metrics
from ontogeny.generation import stop_tokens
from ontogeny.models import longest_context
from ontogeny.prompts import plain_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ontogeny.adapter import Bundle
    from ontogeny.exporter import Exported

    Outputs = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Texts:
    """Real text, and the prompts of a few answers, in the tokens of a checkpoint."""

    words: Sequence[str]
    rows: Sequence[list[int]]  # the ids of each text, cut to the longest row
    prompts: Sequence[tuple[str, list[int]]]  # as they are shown, and their ids
    answer_tokens: int

    @classmethod
    def of(
        cls, bundle: Bundle, words: Sequence[str], prompts: Sequence[str], length: int, tokens: int
    ) -> Texts:
        """Encode texts, cut to `length` tokens, and prompts for answers of so many tokens."""
        longest = min(length, longest_context(bundle.model) or length)
        rows = [_encoded(bundle, each)[:longest] for each in words]
        writes = tokens > 0 and _predicts_next(bundle)
        asked = [(each, prompt_ids(bundle, each)) for each in prompts] if writes else []
        fitting = [each for each in asked if len(each[1]) + tokens <= longest]
        return cls(words, [row for row in rows if len(row) > 1], fitting, tokens)


@dataclass
class Difference:
    """What was found between a checkpoint and one export, summed over rows."""

    largest: float = 0.0  # of all differences, relative to the largest output of its row
    positions: int = 0
    agreeing: int = 0  # positions with the same highest output
    divergence: float = 0.0  # nats: KL(checkpoint ‖ export), summed over positions
    nats: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of text: checkpoint, export
    tokens: int = 0
    bytes: int = 0
    written: int = 0  # tokens that the checkpoint answered
    repeated: int = 0  # those that the export answered, too, before it first differed
    answers: list[tuple[str, str, str]] = field(default_factory=list)  # prompt, checkpoint, export
    misread: str | None = None  # a text that the export's tokenizer encodes otherwise

    @property
    def change(self) -> float | None:
        """Relative change of bits per byte; None where the model does not predict text."""
        return self.nats[1] / self.nats[0] - 1 if self.tokens else None

    def metrics(self, megabytes: float) -> Metrics:
        """Return what stands in metrics.json and on the card."""
        found = {
            "largest_difference": Metric(self.largest, "1", less_is_better=True),
            "same_highest_output": Metric(self.agreeing / max(self.positions, 1), "1"),
        }
        if self.tokens:
            per_byte = [nats / math.log(2) / self.bytes for nats in self.nats]
            perplexities = [math.exp(nats / self.tokens) for nats in self.nats]
            found |= {
                "divergence": Metric(
                    self.divergence / self.positions, "nats/token", less_is_better=True
                ),
                "bits_per_byte": Metric(per_byte[1], "bits/byte"),
                "bits_per_byte_of_checkpoint": Metric(per_byte[0], "bits/byte"),
                "bits_per_byte_rise": _rise(per_byte),
                "perplexity": Metric(perplexities[1], "1"),
                "perplexity_of_checkpoint": Metric(perplexities[0], "1"),
                "perplexity_rise": _rise(perplexities),
            }
        if self.written:
            found["same_answer"] = Metric(self.repeated / self.written, "1")
        return found | {"size": Metric(megabytes, "MB", less_is_better=True)}


def _rise(values: Sequence[float]) -> Metric:
    """Return how much more, relatively, the export has than the checkpoint."""
    return Metric(values[1] / values[0] - 1, "1", less_is_better=True)


def compare(bundle: Bundle, exported: Exported, texts: Texts) -> Difference:
    """Compare an export with the checkpoint that it was made of."""
    found = Difference()
    predicts = _predicts_next(bundle)
    expected = _outputs_of(bundle)
    for ids in texts.rows:
        outputs = (expected(ids), exported.outputs(ids))
        _add_outputs(found, *outputs)
        if predicts:
            _add_text(found, ids, outputs)
            found.bytes += len(cast("str", bundle.tokenizer.decode(ids[1:])).encode())
    for shown, ids in texts.prompts:
        _add_answer(found, bundle, shown, ids, (expected, exported.outputs), texts.answer_tokens)
    found.misread = next(
        (each for each in texts.words if _is_misread(bundle, exported, each)), None
    )
    return found


def prompt_ids(bundle: Bundle, prompt: str) -> list[int]:
    """Return what a model is given of a prompt: a question in its chat template, or plain text."""
    if not bundle.tokenizer.chat_template:
        return plain_tokens(bundle, prompt)
    asked = [{"role": "user", "content": prompt}]
    ids = bundle.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    return cast("list[int]", ids)


def _encoded(bundle: Bundle, text: str) -> list[int]:
    """Return the ids of a text as the model reads it: decoders after what begins a document."""
    if _predicts_next(bundle):
        return plain_tokens(bundle, text)
    return cast("list[int]", bundle.tokenizer(text, verbose=False)["input_ids"])


def _predicts_next(bundle: Bundle) -> bool:
    config = bundle.model.config
    return bundle.model.can_generate() and not config.is_encoder_decoder


def _outputs_of(bundle: Bundle) -> Outputs:
    def outputs(ids: Sequence[int]) -> Tensor:
        with torch.no_grad():
            found = bundle.model(input_ids=torch.tensor([ids]))
        return cast("Tensor", found[0][0]).float()

    return outputs


def _add_outputs(found: Difference, expected: Tensor, given: Tensor) -> None:
    """Add one row: logits [T, V], or scores of the whole row [C]."""
    moved = float((given - expected).abs().max() / expected.abs().max())
    found.largest = moved if math.isnan(moved) else max(found.largest, moved)
    same = expected.argmax(-1) == given.argmax(-1)
    found.positions += same.numel()
    found.agreeing += int(same.sum())


def _add_text(found: Difference, ids: Sequence[int], outputs: tuple[Tensor, Tensor]) -> None:
    """Add what both predict of a text: each token after the first."""
    labels_T = torch.tensor(ids[1:])
    expected_TV, given_TV = (each.log_softmax(-1) for each in outputs)
    found.divergence += float(F.kl_div(given_TV, expected_TV, log_target=True, reduction="sum"))
    for place, log_probs_TV in enumerate((expected_TV, given_TV)):
        found.nats[place] += float(F.nll_loss(log_probs_TV[:-1], labels_T, reduction="sum"))
    found.tokens += len(labels_T)


def _add_answer(
    found: Difference,
    bundle: Bundle,
    shown: str,
    ids: list[int],
    models: tuple[Outputs, Outputs],
    tokens: int,
) -> None:
    stops = set(stop_tokens(bundle.model, bundle.tokenizer))
    expected, given = (_written(model, ids, stops, tokens) for model in models)
    same = [left == right for left, right in zip(expected, given, strict=False)]
    found.written += len(expected)
    found.repeated += same.index(False) if False in same else len(same)
    texts = [
        cast("str", bundle.tokenizer.decode(each, skip_special_tokens=True))
        for each in (expected, given)
    ]
    found.answers.append((shown, texts[0], texts[1]))


def _written(outputs: Outputs, ids: list[int], stops: set[int], tokens: int) -> list[int]:
    """Continue a prompt by the likeliest token, up to a stop token (which is part of it)."""
    written: list[int] = []
    while len(written) < tokens and not (written and written[-1] in stops):
        written.append(int(outputs([*ids, *written])[-1].argmax()))
    return written


def _is_misread(bundle: Bundle, exported: Exported, text: str) -> bool:
    found = exported.encode(text)
    own = bundle.tokenizer.encode(text, add_special_tokens=False)
    return found is not None and found != own
