"""How well a causal language model predicts each of many texts, without ever holding their logits.

Every token of a text is scored once, as lm-evaluation-harness does: in windows that do not overlap,
but for the last one of a long text, which begins early enough to be as long as the others. The
first token is scored after the tokenizer's bos (else eos) token, where it has one; the end-of-text
token is not scored, so the sums are over the text alone.
"""
# N texts, B windows, T tokens

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ontogeny.attention import model_inputs
from ontogeny.data.collation import collate_tokens
from ontogeny.intervals import ratio_interval, resampled_ratios
from ontogeny.objective import IGNORED
from ontogeny.vocabulary_loss import label_log_probs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.objective import Example


__all__ = ["TextScores", "ratio_interval", "resampled_ratios", "score_texts", "windows_of"]


@dataclass(frozen=True)
class TextScores:
    """Sums over each text, [N] float64."""

    nats_N: np.ndarray  # -log p of all its tokens
    tokens_N: np.ndarray
    bytes_N: np.ndarray  # of its UTF-8

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of all texts together; comparable between tokenizers."""
        return float(self.nats_N.sum() / math.log(2) / self.bytes_N.sum())


def score_texts(
    bundle: Bundle, texts: Sequence[str], *, length: int, batch_size: int
) -> TextScores:
    """Score texts in windows of `length` tokens, `batch_size` windows in a forward pass."""
    windows = list(_windows(texts, bundle.tokenizer, length))
    windows.sort(key=lambda window: -len(window[1]["input_ids"]))  # little padding
    nats_N = torch.zeros(len(texts), dtype=torch.float64)
    tokens_N = torch.zeros(len(texts), dtype=torch.float64)
    for begin in range(0, len(windows), batch_size):
        owners_B, counts_B, nats_B = _score(bundle, windows[begin : begin + batch_size])
        nats_N.index_add_(0, owners_B, nats_B)
        tokens_N.index_add_(0, owners_B, counts_B)
    bytes_N = np.array([len(text.encode()) for text in texts], dtype=np.float64)
    return TextScores(nats_N.numpy(), tokens_N.numpy(), bytes_N)


def _windows(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> Iterator[tuple[int, Example]]:
    """Yield (text, window) with aligned labels; every token of a text is a label once."""
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    first = [] if start is None else [start]
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    for text, ids in enumerate(encoded):
        line = np.array([*first, *ids], dtype=np.int32)
        for _, window in windows_of(line, length):
            yield text, window


def windows_of(line_T: np.ndarray, length: int) -> Iterator[tuple[int, Example]]:
    """Yield windows of at most `length` tokens, each with the number of those scored before it.

    Labels are aligned; every token after the first is a label in one window.
    """
    for begin in range(0, len(line_T) - 1, length):
        end = min(begin + length, len(line_T) - 1)
        first = max(0, end - length)
        labels_T = line_T[first + 1 : end + 1].copy()
        labels_T[: begin - first] = IGNORED
        yield begin, {"input_ids": line_T[first:end], "labels": labels_T}


def _score(bundle: Bundle, windows: Sequence[tuple[int, Example]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the text, the number of tokens and the nats of each window, [B]."""
    batch = collate_tokens([example for _, example in windows])
    device = next(bundle.model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    labelled_BT = batch["labels"] != IGNORED
    nats_BT = torch.zeros(labelled_BT.shape, dtype=torch.float64, device=device)
    log_probs = label_log_probs(bundle.model, model_inputs(bundle.model, batch), batch["labels"])
    nats_BT[labelled_BT] = -log_probs.double()
    owners_B = torch.tensor([text for text, _ in windows])
    return owners_B, labelled_BT.sum(1).double().cpu(), nats_BT.sum(1).cpu()
