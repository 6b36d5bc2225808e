"""Static vectors of tokens out of a small text: which tokens stand near which.

Positive pointwise mutual information of neighbours, reduced by a truncated singular value
decomposition, is what skip-gram with negative sampling factorises (Levy & Goldberg, 2014). FOCUS
and WECHSEL use fastText instead, which needs another library and, unlike this, a seed.
"""
# N tokens with a vector, D width, P pairs, T tokens of the text

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tokenizers import Tokenizer
    from torch import Tensor

VERSION = 1  # of the way in which they are made
WIDTH = 128
WINDOW = 5  # neighbours to each side
RAREST = 5  # tokens that occur less often have no vector
SMOOTHING = 0.75  # of the neighbours' frequencies (Levy, Goldberg & Dagan, 2015)
POWER_ITERATIONS = 4  # Halko, Martinsson & Tropp, 2011, algorithm 4.4
OVERSAMPLING = 16


@dataclass(frozen=True)
class StaticVectors:
    """Vectors of the tokens that a text has often enough, of length 1."""

    ids_N: Tensor  # int64, ascending
    vectors_ND: Tensor  # float32

    @classmethod
    def load(cls, folder: Path) -> StaticVectors:
        """Read what `save` wrote."""
        stored = load_file(folder / "vectors.safetensors")
        return cls(stored["ids"], stored["vectors"])

    def save(self, folder: Path) -> None:
        """Write one file into a folder."""
        tensors = {"ids": self.ids_N, "vectors": self.vectors_ND.contiguous()}
        save_file(tensors, folder / "vectors.safetensors")


def static_vectors(backend: Tokenizer, texts: Iterable[str]) -> StaticVectors:
    """Encode texts and return vectors of their tokens."""
    documents = list(_encoded(backend, texts))
    tokens_T = np.concatenate(documents)
    document_T = np.repeat(np.arange(len(documents)), [len(each) for each in documents])
    frequencies = np.bincount(tokens_T)
    ids_N = np.flatnonzero(frequencies >= RAREST)
    left_P, right_P, counts_P = _neighbours(tokens_T, document_T, ids_N)
    values_P = positive_information(left_P, right_P, counts_P, len(ids_N))
    places_2P = torch.from_numpy(np.stack([left_P, right_P]))
    matrix_NN = torch.sparse_coo_tensor(
        places_2P, torch.from_numpy(values_P), (len(ids_N),) * 2, check_invariants=False
    )
    vectors_ND = _reduced(matrix_NN.coalesce(), min(WIDTH, len(ids_N)))
    return StaticVectors(torch.from_numpy(ids_N), torch.nn.functional.normalize(vectors_ND, dim=1))


def positive_information(
    left_P: np.ndarray, right_P: np.ndarray, counts_P: np.ndarray, size: int
) -> np.ndarray:
    """Return max(0, log p(left, right) / (p(left) p'(right))) of each pair, float32 [P].

    p' is the frequency as a neighbour to the power of 0.75, normalised.
    """
    total = counts_P.sum()
    frequency_N = np.bincount(left_P, counts_P, size) / total
    smoothed_N = np.bincount(right_P, counts_P, size) ** SMOOTHING
    smoothed_N /= smoothed_N.sum()
    expected_P = frequency_N[left_P] * smoothed_N[right_P]
    values_P: np.ndarray = np.maximum(0, np.log(counts_P / total / expected_P))
    return values_P.astype(np.float32)


def _encoded(backend: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    waiting = iter(texts)
    while chunk := list(islice(waiting, 1000)):
        for encoding in backend.encode_batch_fast(chunk, add_special_tokens=False):
            yield np.array(encoding.ids, dtype=np.int64)


def _neighbours(
    tokens_T: np.ndarray, document_T: np.ndarray, ids_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return left and right token (places in `ids_N`) of all pairs within the window, and counts.

    Both orders of a pair are counted; a window does not leave its document.
    """
    size = len(ids_N)
    place_of = np.full(tokens_T.max() + 1, -1)
    place_of[ids_N] = np.arange(size)
    places_T = place_of[tokens_T]
    found = []
    for distance in range(1, WINDOW + 1):
        left, right = places_T[:-distance], places_T[distance:]
        near = (left >= 0) & (right >= 0) & (document_T[:-distance] == document_T[distance:])
        found += [left[near] * size + right[near], right[near] * size + left[near]]
    pairs_P, counts_P = np.unique(np.concatenate(found), return_counts=True)
    return pairs_P // size, pairs_P % size, counts_P


def _reduced(matrix_NN: Tensor, width: int) -> Tensor:
    """Return U √S of the truncated singular value decomposition, [N, D]."""
    generator = torch.Generator().manual_seed(0)
    size = len(matrix_NN)
    sample = min(size, width + OVERSAMPLING)
    basis = matrix_NN @ torch.randn(size, sample, generator=generator)
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(matrix_NN.t() @ torch.linalg.qr(basis).Q).Q
        basis = matrix_NN @ basis
    basis = torch.linalg.qr(basis).Q
    left, singular, _ = torch.linalg.svd((matrix_NN.t() @ basis).t(), full_matrices=False)
    reduced_ND: Tensor = (basis @ left)[:, :width] * singular[:width].sqrt()
    return reduced_ND
