"""Perplexity and bits per byte of held-out documents, without ever holding their logits."""
# N documents, B windows, T tokens

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ontogeny.attention import model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.errors import ConfigError, DataError
from ontogeny.evaluator import EvaluationData, Evaluator, Metric, Metrics
from ontogeny.models import longest_context
from ontogeny.objective import IGNORED
from ontogeny.vocabulary_loss import label_log_probs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Example, Row
    from ontogeny_plugins.perplexity import Perplexity


@dataclass(frozen=True)
class _Documents:
    """Sums over each document, [N] float64."""

    nats_N: np.ndarray
    tokens_N: np.ndarray
    bytes_N: np.ndarray


class PerplexityEvaluator(Evaluator):
    """Scores every token of every document once, in windows that do not overlap.

    The first token is scored after the tokenizer's bos (else eos) token, where it has one; the
    end-of-text token is not scored, so the sums are over the text alone.
    """

    def __init__(self, config: Perplexity) -> None:
        self.config = config

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise DataError without rows, ConfigError for windows longer than the model's context."""
        if not any(data.rows.values()):
            msg = (
                "no held-out rows to evaluate on: set data.validation.path or "
                "data.validation.share, or evaluate nothing: 'evaluator=[]'"
            )
            raise DataError(msg)
        length, longest = self.config.max_length, longest_context(bundle.model)
        if length is not None and longest is not None and length > longest:
            msg = (
                f"evaluator.perplexity.max_length is {length}, longer than the context of the "
                f"model: {longest} (max_position_embeddings)"
            )
            raise ConfigError(msg)

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return the metrics over all sources; of each source too, when there are several."""
        self.check(bundle, data)
        length = self.config.max_length or data.options.max_length
        measured = {
            name: self._measure(bundle, rows, length) for name, rows in data.rows.items() if rows
        }
        metrics = self._metrics(list(measured.values()))
        if len(measured) > 1:
            for name, documents in measured.items():
                own = self._metrics([documents])
                metrics |= {f"{metric}/{name}": value for metric, value in own.items()}
        return metrics

    def _measure(self, bundle: Bundle, rows: Sequence[Row], length: int) -> _Documents:
        texts = [str(row["text"]) for row in rows]
        windows = list(_windows(texts, bundle.tokenizer, length))
        windows.sort(key=lambda window: -len(window[1]["input_ids"]))  # little padding
        nats_N = torch.zeros(len(texts), dtype=torch.float64)
        tokens_N = torch.zeros(len(texts), dtype=torch.float64)
        for begin in range(0, len(windows), self.config.batch_size):
            window = windows[begin : begin + self.config.batch_size]
            owners, counts, nats = _score(bundle, window)
            nats_N.index_add_(0, owners, nats)
            tokens_N.index_add_(0, owners, counts)
        bytes_N = np.array([len(text.encode()) for text in texts], dtype=np.float64)
        return _Documents(nats_N.numpy(), tokens_N.numpy(), bytes_N)

    def _metrics(self, parts: Sequence[_Documents]) -> Metrics:
        nats_N = np.concatenate([part.nats_N for part in parts])
        tokens_N = np.concatenate([part.tokens_N for part in parts])
        bytes_N = np.concatenate([part.bytes_N for part in parts])
        nats, low_nats, high_nats = self._ratio(nats_N, tokens_N)
        bits, low_bits, high_bits = self._ratio(nats_N / math.log(2), bytes_N)
        perplexity, low, high = (math.exp(each) for each in (nats, low_nats, high_nats))
        return {
            "nats_per_token": Metric(nats, "nats/token", low_nats, high_nats),
            "perplexity": Metric(perplexity, "1", low, high),
            "bits_per_byte": Metric(bits, "bits/byte", low_bits, high_bits),
        }

    def _ratio(self, top_N: np.ndarray, bottom_N: np.ndarray) -> tuple[float, float, float]:
        """Return Σ top / Σ bottom with its 95 % bootstrap interval over documents."""
        generator = np.random.default_rng(0)
        count = len(top_N)
        ratios = np.empty(self.config.resamples)
        for resample in range(self.config.resamples):
            drawn = generator.integers(0, count, count)
            ratios[resample] = top_N[drawn].sum() / bottom_N[drawn].sum()
        low, high = np.quantile(ratios, [0.025, 0.975])
        return float(top_N.sum() / bottom_N.sum()), float(low), float(high)


def _windows(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> Iterator[tuple[int, Example]]:
    """Yield (document, window) with aligned labels; every token of a text is a label once."""
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    first = [] if start is None else [start]
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    for document, ids in enumerate(encoded):
        line = np.array([*first, *ids], dtype=np.int32)
        for begin in range(0, len(line) - 1, length):
            piece = line[begin : begin + length + 1]
            yield document, {"input_ids": piece[:-1], "labels": piece[1:]}


def _score(bundle: Bundle, windows: Sequence[tuple[int, Example]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the document, the number of tokens and the nats of each window, [B]."""
    batch = collate_tokens([example for _, example in windows])
    device = next(bundle.model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    labelled_BT = batch["labels"] != IGNORED
    nats_BT = torch.zeros(labelled_BT.shape, dtype=torch.float64, device=device)
    log_probs = label_log_probs(bundle.model, model_inputs(bundle.model, batch), batch["labels"])
    nats_BT[labelled_BT] = -log_probs.double()
    owners_B = torch.tensor([document for document, _ in windows])
    return owners_B, labelled_BT.sum(1).double().cpu(), nats_BT.sum(1).cpu()
