"""Perplexity of held-out answers given their prompts, without ever holding their logits."""
# B rows of a batch, T tokens, R rows

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ontogeny.attention import model_inputs
from ontogeny.errors import DataError, RowError
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.objective import IGNORED
from ontogeny.scoring import ratio_interval
from ontogeny.vocabulary_loss import label_log_probs
from ontogeny_plugins.sft import SFT, Seq2Seq
from ontogeny_plugins.sft.objective import SFTObjective
from ontogeny_plugins.sft.seq2seq import Seq2SeqObjective, decoder_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Batch, Example, Objective, Row
    from ontogeny.options import Data
    from ontogeny_plugins.sft import CompletionPerplexity

LIMITLESS = 2**31 - 1  # tokens: the training leaves out longer completions, a measurement does not


class CompletionPerplexityEvaluator(Evaluator):
    """Scores the tokens of all answers of a row, each with its end, as the training sees them."""

    columns: ClassVar[Sequence[Sequence[str]]] = SFTObjective.columns

    def __init__(self, config: CompletionPerplexity) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise DataError without rows, or for one that cannot be rendered."""
        for name, rows in data.rows.items():
            _examples(bundle, name, rows, data.options)
        if not any(data.rows.values()):
            msg = (
                "no held-out rows to evaluate on: set data.validation.path or "
                "data.validation.share, or evaluate nothing: 'evaluator=[]'"
            )
            raise DataError(msg)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics over all sources; of each source too, when there are several."""
        measured = {}
        for name, rows in data.rows.items():
            measured[name] = self._measure(bundle, _examples(bundle, name, rows, data.options))
        metrics = self._metrics(np.concatenate(list(measured.values())))
        if len(measured) > 1:
            for name, sums_R3 in measured.items():
                own = self._metrics(sums_R3)
                metrics |= {f"{metric}/{name}": value for metric, value in own.items()}
        return metrics

    def _measure(self, bundle: Bundle, examples: Sequence[Example]) -> np.ndarray:
        """Return nats, tokens and bytes of the answers of each row: R3."""
        longest_first = sorted(examples, key=lambda example: -len(example["input_ids"]))
        size = self.config.batch_size
        batches = [longest_first[at : at + size] for at in range(0, len(examples), size)]
        return np.concatenate([_score(bundle, batch) for batch in batches])

    def _metrics(self, sums_R3: np.ndarray) -> Metrics:
        nats_R, tokens_R, bytes_R = sums_R3.T
        nats, low_nats, high_nats = ratio_interval(nats_R, tokens_R, self.config.resamples)
        bits, low_bits, high_bits = ratio_interval(
            nats_R / math.log(2), bytes_R, self.config.resamples
        )
        perplexity, low, high = (math.exp(each) for each in (nats, low_nats, high_nats))
        return {
            "nats_per_token": Metric(nats, "nats/token", low_nats, high_nats),
            "perplexity": Metric(perplexity, "1", low, high),
            "bits_per_byte": Metric(bits, "bits/byte", low_bits, high_bits),
        }


def _objective(bundle: Bundle) -> Objective:
    if bundle.model.config.is_encoder_decoder:
        return Seq2SeqObjective(Seq2Seq(max_completion=LIMITLESS))
    return SFTObjective(SFT())


def _examples(bundle: Bundle, name: str, rows: Sequence[Row], data: Data) -> list[Example]:
    """Return the rows that have an answer within `data.max_length` tokens, cut to that."""
    cut = [
        {key: value if key == "decoder_labels" else value[: data.max_length] for key, value in each}
        for each in map(dict.items, _prepared(bundle, name, rows, data.on_error))
    ]
    kept = [example for example in cut if (_labels(example) != IGNORED).any()]
    if not kept:
        msg = (
            f"no held-out row of {name} has an answer within data.max_length={data.max_length} "
            f"tokens"
        )
        raise DataError(msg)
    return kept


def _prepared(bundle: Bundle, name: str, rows: Sequence[Row], on_error: str) -> list[Example]:
    """Return rows as the training sees them; bad ones of a file of their own were not seen yet."""
    while True:
        try:
            return list(_objective(bundle).prepare(rows, bundle.tokenizer))
        except RowError as error:
            if on_error != "skip":
                what = f"held-out row {error.index + 1} of {name}: {error.reason}"
                raise DataError(f"{what}; mend the row or set data.on_error=skip") from error
            rows = [*rows[: error.index], *rows[error.index + 1 :]]


def _labels(example: Example) -> np.ndarray:
    return example.get("decoder_labels", example.get("labels", np.zeros(0)))


def _score(bundle: Bundle, examples: Sequence[Example]) -> np.ndarray:
    """Return nats, tokens and bytes of the labels of each row: B3."""
    model, tokenizer = bundle.model, bundle.tokenizer
    device = next(model.parameters()).device
    batch = _objective(bundle).collate(examples)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    labels_BT = batch["labels"]
    labelled_BT = labels_BT != IGNORED
    nats_BT = torch.zeros(labels_BT.shape, dtype=torch.float64, device=device)
    log_probs = label_log_probs(model, _inputs(bundle, batch), labels_BT)
    nats_BT[labelled_BT] = -log_probs.double()
    texts = tokenizer.batch_decode(
        [labels[labels != IGNORED] for labels in map(_labels, examples)], skip_special_tokens=True
    )
    bytes_B = torch.tensor([len(text.encode()) for text in texts], dtype=torch.float64)
    sums = (nats_BT.sum(1).cpu(), labelled_BT.sum(1).double().cpu(), bytes_B)
    return torch.stack(sums, dim=1).numpy()


def _inputs(bundle: Bundle, batch: Batch) -> dict[str, object]:
    if bundle.model.config.is_encoder_decoder:
        return decoder_inputs(bundle.model, batch)
    return model_inputs(bundle.model, batch)
