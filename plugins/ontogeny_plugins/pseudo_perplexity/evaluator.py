"""Pseudo-perplexity of held-out documents; only masked positions reach the output layer."""
# N documents, B copies of windows, T tokens, M masked tokens of a batch

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from ontogeny.attention import is_causal, model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.data.documents import frame_of
from ontogeny.errors import ConfigError, DataError
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.intervals import ratio_interval
from ontogeny.models import longest_context
from ontogeny.objective import IGNORED
from ontogeny.scoring import TextScores
from ontogeny.vocabulary_loss import label_log_probs
from ontogeny_plugins.pseudo_perplexity.windows import Cutting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Example, Row
    from ontogeny_plugins.pseudo_perplexity import PseudoPerplexity


class PseudoPerplexityEvaluator(Evaluator):
    """Predicts tokens of every document, each from all others of its window.

    Where only some tokens of a document are drawn, their mean stands for all of them.
    """

    def __init__(self, config: PseudoPerplexity) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise DataError without rows, ConfigError for what cannot predict masked tokens."""
        if not any(data.rows.values()):
            msg = (
                "no held-out rows to evaluate on: set data.validation.path or "
                "data.validation.share, or evaluate nothing: 'evaluator=[]'"
            )
            raise DataError(msg)
        if is_causal(bundle.model):
            msg = (
                f"evaluator=[pseudo_perplexity] is for masked language models, and this "
                f"{type(bundle.model).__name__} is causal; choose 'evaluator=[perplexity]'"
            )
            raise ConfigError(msg)
        if bundle.tokenizer.mask_token_id is None:
            msg = (
                "evaluator=[pseudo_perplexity] masks tokens, and the tokenizer has no mask token; "
                "set tokenizer.source to the tokenizer that the model was trained with"
            )
            raise ConfigError(msg)
        self._check_length(bundle, data)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics over all sources; of each source too, when there are several."""
        self.check(bundle, data)
        measured = {
            name: self._measure(bundle, rows, self._length(data))
            for name, rows in data.rows.items()
            if rows
        }
        metrics = self._metrics(list(measured.values()))
        if len(measured) > 1:
            for name, documents in measured.items():
                own = self._metrics([documents])
                metrics |= {f"{metric}/{name}": value for metric, value in own.items()}
        return metrics

    def _length(self, data: EvaluationData) -> int:
        return self.config.max_length or data.options.max_length

    def _check_length(self, bundle: Bundle, data: EvaluationData) -> None:
        length, longest = self._length(data), longest_context(bundle.model)
        key = "data" if self.config.max_length is None else "evaluator.pseudo_perplexity"
        special = len(frame_of(bundle.tokenizer))
        if length <= special:
            msg = f"{key}.max_length is {length}; expected more than the {special} special tokens"
            raise ConfigError(f"{msg} around a text")
        if longest is not None and length > longest:
            msg = (
                f"{key}.max_length is {length}, longer than the context of the model: {longest} "
                f"(max_position_embeddings)"
            )
            raise ConfigError(msg)

    def _measure(self, bundle: Bundle, rows: Sequence[Row], length: int) -> TextScores:
        """Score a source; of each document the mean of the drawn tokens, times their number."""
        texts = self._draw([str(row["text"]) for row in rows])
        cutting = Cutting(length, self.config.tokens, self.config.within_word)
        windows, tokens_N = cutting.windows(texts, bundle.tokenizer)
        if not windows:
            raise DataError("the held-out rows have no tokens to predict: the texts are empty")
        windows.sort(key=lambda window: -len(window.ids_T))  # little padding
        mask, at_once = int(bundle.tokenizer.mask_token_id), self.config.masks_per_pass
        copies = ((each.document, copy) for each in windows for copy in each.copies(mask, at_once))
        nats_N, drawn_N = np.zeros((2, len(texts)))
        while batch := list(islice(copies, self.config.batch_size)):
            documents_M, nats_M = _predict(bundle, batch)
            np.add.at(nats_N, documents_M, nats_M)
            np.add.at(drawn_N, documents_M, 1)
        bytes_N = np.array([len(text.encode()) for text in texts], np.float64)
        return TextScores(nats_N * tokens_N / drawn_N.clip(min=1), tokens_N, bytes_N)

    def _draw(self, texts: Sequence[str]) -> list[str]:
        chosen = np.random.default_rng(0).permutation(len(texts))[: self.config.documents]
        return [texts[index] for index in np.sort(chosen)]

    def _metrics(self, parts: Sequence[TextScores]) -> Metrics:
        nats_N = np.concatenate([part.nats_N for part in parts])
        tokens_N = np.concatenate([part.tokens_N for part in parts])
        bytes_N = np.concatenate([part.bytes_N for part in parts])
        resamples = self.config.resamples
        nats, low_nats, high_nats = ratio_interval(nats_N, tokens_N, resamples)
        bits, low_bits, high_bits = ratio_interval(nats_N / math.log(2), bytes_N, resamples)
        perplexity, low, high = (math.exp(each) for each in (nats, low_nats, high_nats))
        return {
            "nats_per_token": Metric(nats, "nats/token", low_nats, high_nats),
            "pseudo_perplexity": Metric(perplexity, "1", low, high),
            "bits_per_byte": Metric(bits, "bits/byte", low_bits, high_bits),
        }


def _predict(
    bundle: Bundle, copies: Sequence[tuple[int, Example]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the document and the nats of each masked token that is a label, [M]."""
    model = bundle.model
    batch = collate_tokens([copy for _, copy in copies])
    documents_B = np.array([document for document, _ in copies])
    rows_M = (batch["labels"] != IGNORED).nonzero()[:, 0].numpy()
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    log_probs_M = label_log_probs(model, model_inputs(model, batch), batch["labels"])
    return documents_B[rows_M], -log_probs_M.to("cpu", torch.float64).numpy()
