"""Vocabulary expansion: the tokenizer, then the model's rows, then how these learn."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from ontogeny.adapter import Adapter, Bundle, ParameterGroup
from ontogeny.errors import ConfigError
from ontogeny_plugins.vocabulary.embeddings import grow, vocabulary_parameters
from ontogeny_plugins.vocabulary.expansion import expand
from ontogeny_plugins.vocabulary.fertility import fertility
from ontogeny_plugins.vocabulary.initialisation.methods import METHODS, NEED_VECTORS
from ontogeny_plugins.vocabulary.initialisation.mixture import Known
from ontogeny_plugins.vocabulary.proofs import bound_proof, ids_proof, text_proof
from ontogeny_plugins.vocabulary.report import described, measured, metrics
from ontogeny_plugins.vocabulary.rules import backend_of, rules_of
from ontogeny_plugins.vocabulary.static_vectors import VERSION, StaticVectors, static_vectors
from ontogeny_plugins.vocabulary.texts import domain_sources, held_out_texts, training_texts
from ontogeny_plugins.vocabulary.warmup import StagedWarmup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import lightning as L
    from transformers import PreTrainedTokenizerBase

    from ontogeny.data.corpus import Corpus
    from ontogeny.evaluator import Metrics
    from ontogeny.objective import Batch
    from ontogeny.preflight import Proof
    from ontogeny_plugins.vocabulary import Vocabulary
    from ontogeny_plugins.vocabulary.expansion import Expansion

HELD_OUT = 1e6  # bytes of each source that the saving is measured on
PROVEN = 16  # texts that are encoded and decoded before the run


class VocabularyAdapter(Adapter):
    """Adds the tokens that save most of the domain's, and rows for them."""

    keeps_function = False

    def __init__(self, config: Vocabulary) -> None:
        self.config = config
        self._warmup = config.warmup
        self._before: PreTrainedTokenizerBase
        self._after: PreTrainedTokenizerBase
        self._expansion: Expansion
        self._vectors: StaticVectors | None = None
        self._texts: list[str] = []
        self._metrics: Metrics = {}
        self._is_frozen = False  # the model, by another adapter

    def extend(self, tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> PreTrainedTokenizerBase:
        """Return a copy with new tokens, and keep what their rows will be made of."""
        self._before = tokenizer
        self._after, self._expansion, identity = expand(tokenizer, corpus, self.config)
        if self.config.init in NEED_VECTORS:
            build = partial(self._build_vectors, corpus)
            folder = corpus.keep("static_vectors", [identity, VERSION], build)
            self._vectors = StaticVectors.load(folder)
        sources = domain_sources(corpus, self.config.source)
        held_out = list(held_out_texts(corpus, sources, HELD_OUT))
        self._texts = held_out[:PROVEN] or list(islice(self._training_texts(corpus), PROVEN))
        for line in described(self._expansion, self._after):
            corpus.announce(line)
        old, new = (fertility(each, held_out) for each in (self._before, self._after))
        corpus.announce(measured(old, new))
        self._metrics = metrics(self._expansion, old, new)
        return self._after

    def apply(self, bundle: Bundle) -> Bundle:
        """Add rows for the new tokens, made in the same way for input and output."""
        known = Known(
            expansion=self._expansion,
            vocabulary=self._before.get_vocab(),
            prefix=rules_of(self._before)["model"].get("continuing_subword_prefix") or "",
            vectors=self._vectors,
            options=self.config,
        )
        grow(bundle.model, self._expansion, METHODS[self.config.init](known))
        return Bundle(bundle.model, self._after, bundle.head)

    def parameter_groups(self, bundle: Bundle) -> Iterable[ParameterGroup]:
        """Let rows learn in a model that is frozen; where old ones must stay, none decays."""
        parameters = vocabulary_parameters(bundle.model)
        self._is_frozen = not parameters[0].requires_grad
        for parameter in parameters:
            parameter.requires_grad_(True)
        if self._is_frozen or self._warmup[0] > 0:
            return [ParameterGroup(parameters, weight_decay=0.0)]
        return []

    def callbacks(self, bundle: Bundle, steps: int) -> Iterable[L.Callback]:
        """Return the warm-up, where something must not learn yet."""
        del bundle
        new_rows, embeddings = self._warmup
        if new_rows + embeddings > steps:
            msg = (
                f"adapter.vocabulary.warmup is {self._warmup}, {new_rows + embeddings} steps "
                f"in all; expected no more than the run has, {steps}"
            )
            raise ConfigError(msg)
        if not (new_rows or embeddings or self._is_frozen):
            return []
        ids = self._expansion.ids
        return [StagedWarmup(ids, (new_rows, embeddings), is_frozen=self._is_frozen)]

    def settle(self, bundle: Bundle) -> Bundle:
        """Change nothing: the rows are part of the model."""
        return bundle

    def proofs(self, bundle: Bundle, batch: Batch) -> Iterable[Proof]:
        """Prove that ids stay, that text comes back, and how little new tokens take from old."""
        yield ids_proof(self._before, self._after)
        yield text_proof(self._before, self._after, self._texts)
        yield bound_proof(bundle.model, self._expansion, batch, self.config.init)

    def metrics(self) -> Metrics:
        """Return how many tokens are new and, on held-out text, tokens per word and per byte."""
        return self._metrics

    def _training_texts(self, corpus: Corpus) -> Iterator[str]:
        sources = domain_sources(corpus, self.config.source)
        return training_texts(corpus, sources, self.config.megabytes * 1e6)

    def _build_vectors(self, corpus: Corpus, folder: Path) -> None:
        backend = backend_of(rules_of(self._after))
        static_vectors(backend, self._training_texts(corpus)).save(folder)
