"""Vocabulary trimming: the tokens that a text uses stay, with the rows of the model for them."""
# V tokens before, K tokens kept, D width

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ontogeny.adapter import Adapter, Bundle
from ontogeny.errors import ConfigError
from ontogeny.evaluator import Metric, Metrics
from ontogeny.preflight import Proof
from ontogeny_plugins.compression.tokens import kept_tokens, rules_of, trimmed, with_rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.data.corpus import Corpus
    from ontogeny.objective import Batch, Row
    from ontogeny_plugins.compression import Trimming

BATCH = 256  # texts that are encoded at once
PROVEN = 64  # texts whose tokens are compared before and after
CONVERSATION = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


class TrimmingAdapter(Adapter):
    """Counts tokens, leaves out those that are not used, and cuts the model's rows."""

    keeps_function = False  # another number of outputs

    def __init__(self, config: Trimming) -> None:
        self.config = config
        self._kept: list[int] = []  # ids before, in the order of those after
        self._before: PreTrainedTokenizerBase
        self._after: PreTrainedTokenizerBase
        self._texts: list[str] = []
        self._counts: Counter[int] = Counter()
        self._metrics: Metrics = {}

    def extend(self, tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> PreTrainedTokenizerBase:
        """Return a copy with the tokens that the text uses."""
        self._before = tokenizer
        rules = rules_of(tokenizer)
        self._counts = self._counted(tokenizer, corpus)
        limit = self.config.vocab_size
        used = [id_ for id_, count in self._counts.most_common() if count >= self.config.min_count]
        self._kept = kept_tokens(rules, tokenizer, used, _template_ids(tokenizer), limit)
        self._after = with_rules(tokenizer, trimmed(rules, self._kept))
        self._measure(corpus)
        return self._after

    def apply(self, bundle: Bundle) -> Bundle:
        """Keep the rows of the tokens that stay, in input, output and their biases."""
        before = bundle.model.num_parameters()
        cut_rows(bundle.model, self._kept)
        renumber(bundle.model, self._kept)
        after = bundle.model.num_parameters()
        self._metrics["parameters_saved"] = Metric(1 - after / before, "1")
        return Bundle(bundle.model, self._after, bundle.head)

    def settle(self, bundle: Bundle) -> Bundle:
        """Change nothing: there are fewer rows, and that is all."""
        return bundle

    def proofs(self, bundle: Bundle, batch: Batch) -> Iterable[Proof]:
        """Prove that text comes back, and that what uses kept tokens alone has kept its tokens."""
        del bundle, batch
        number = {old: new for new, old in enumerate(self._kept)}
        decode = self._after.decode
        lost, moved = [], []
        for text in self._texts:
            old, new = (each.encode(text, add_special_tokens=False) for each in self._both)
            if decode(new) != self._before.decode(old):
                lost.append(text)
            if all(each in number for each in old) and [number[each] for each in old] != new:
                moved.append(text)
        evidence = f"{len(self._texts)} texts, {len(lost)} lost, {len(moved)} encoded otherwise"
        yield Proof("trimming: text comes back in the same tokens", not lost + moved, evidence)

    def metrics(self) -> Metrics:
        """Return what was kept, and how much longer the text of the stage has become."""
        return self._metrics

    @property
    def _both(self) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
        return self._before, self._after

    def _counted(self, tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> Counter[int]:
        """Count the tokens of all text, and keep its first texts for the proof."""
        counts: Counter[int] = Counter()
        texts = self._read(corpus)
        while batch := list(islice(texts, BATCH)):
            self._texts += batch[: PROVEN - len(self._texts)]
            for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                counts.update(ids)
        if not counts:
            msg = "adapter.trimming: the text to count tokens in is empty; set data.path to some"
            raise ConfigError(msg)
        return counts

    def _read(self, corpus: Corpus) -> Iterator[str]:
        if self.config.path is not None:
            from ontogeny.data.reading import read_rows  # noqa: PLC0415  reads with datasets

            unit = corpus.data.text_unit
            records = read_rows(self.config.path, columns={}, required=(), text_unit=unit)
            return (text for record in records for text in _texts_of(record.row))
        return (
            text for name in corpus.names for row in corpus.rows(name) for text in _texts_of(row)
        )

    def _measure(self, corpus: Corpus) -> None:
        old, new = (
            sum(len(ids) for ids in each(self._texts, verbose=False)["input_ids"])
            for each in self._both
        )
        covered = sum(self._counts[each] for each in self._kept) / self._counts.total()
        self._metrics = {
            "tokens": Metric(len(self._kept), "tokens"),
            "tokens_before": Metric(len(self._before), "tokens"),
            "covered": Metric(covered, "1"),
            "longer_text": Metric(new / old - 1, "1", less_is_better=True),
        }
        corpus.announce(
            f"trimming: {len(self._kept):,} of {len(self._before):,} tokens stay, {covered:.2%} of "
            f"what the text uses; it is {new / old - 1:.2%} longer"
        )


def _template_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that the chat template itself writes, such as the names of roles."""
    if not tokenizer.chat_template:
        return []
    conversations = (CONVERSATION, [{"role": "system", "content": "a"}, *CONVERSATION])
    return [each for turns in conversations for each in _rendered(tokenizer, turns)]


def _rendered(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]]
) -> Sequence[int]:
    try:
        ids = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns], add_generation_prompt=False, return_dict=False
        )
        begun = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns[:-1]], add_generation_prompt=True, return_dict=False
        )
    except Exception:  # noqa: BLE001  a template may refuse a role, each in its own way
        return []
    return [*cast("list[int]", ids), *cast("list[int]", begun)]


def _texts_of(value: Row | object) -> Iterator[str]:
    """Yield all texts in a row, of whatever format."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in cast("Mapping[str, object]", value).values():
            yield from _texts_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts_of(each)


def cut_rows(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Keep these rows of the embeddings and the output layer, wherever they are shared."""
    rows = len(cast("Tensor", model.get_input_embeddings().weight))
    index = torch.tensor(list(kept))
    output = model.get_output_embeddings()
    layers = [model.get_input_embeddings(), *([] if output is None else [output])]
    shared = {id(each): each for layer in layers for each in layer.parameters()}
    for parameter in shared.values():
        if len(parameter) == rows:
            _replace(cast("nn.Module", model), parameter, index)
    for layer in layers:
        _resize(layer, len(kept), kept)
    model.config.get_text_config().vocab_size = model.config.vocab_size = len(kept)


def _replace(model: nn.Module, parameter: nn.Parameter, index: Tensor) -> None:
    """Put the rows in the place of a parameter, in every module that holds it."""
    rows = parameter.detach()[index.to(parameter.device)].clone()
    new = nn.Parameter(rows, requires_grad=parameter.requires_grad)
    for module in model.modules():
        for name, each in list(module.named_parameters(recurse=False)):
            if each is parameter:
                setattr(module, name, new)


def _resize(layer: Any, size: int, kept: Sequence[int]) -> None:
    """Let a layer say how many rows it has, and which of them is padding."""
    for name in ("num_embeddings", "out_features"):
        if hasattr(layer, name):
            setattr(layer, name, size)
    if getattr(layer, "padding_idx", None) is not None:
        layer.padding_idx = kept.index(layer.padding_idx) if layer.padding_idx in kept else None


def renumber(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Give the special tokens in config and generation config their new ids; drop what is gone."""
    number = {old: new for new, old in enumerate(kept)}
    for config in (model.config, getattr(model, "generation_config", None)):
        for name, value in list(vars(config).items()) if config is not None else ():
            if not name.endswith(("_token_id", "_tokens", "_token_ids")) or isinstance(value, bool):
                continue
            if isinstance(value, int) and not name.endswith("_tokens"):
                setattr(config, name, number.get(value))
            elif isinstance(value, list) and all(isinstance(each, int) for each in value):
                setattr(config, name, [number[each] for each in value if each in number])
