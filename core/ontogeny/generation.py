"""Many prompts continued in batches with a KV cache, whatever the family of the model.

What is drawn for a prompt depends on the seed and on its place among the prompts alone: neither on
the size of a batch nor on what else is in it.
"""
# B prompts of a batch, P tokens of the longest prompt, N new tokens, V vocabulary

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from ontogeny.attention import first_position
from ontogeny.errors import ConfigError
from ontogeny.key_value_cache import reserved_cache
from ontogeny.models import longest_context
from ontogeny.token_choice import Draw, StopTexts, random_numbers
from ontogeny.token_ids import stop_ids

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle

NAME = "generation_config"
# What a model needs to write at all; how it likes to be sampled is not ours to take over.
STRUCTURE = (
    *("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"),
    *("suppress_tokens", "begin_suppress_tokens"),
)
PROBE = 8  # tokens of a prompt, and of the padding beside it, that padding is tried on
MOVED = 0.02  # of the spread of the logits: in bfloat16 rounding moves them by a tenth of that


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen, and when a text ends."""

    max_tokens: int  # of each continuation
    batch_size: int  # prompts in a forward pass
    temperature: float = 0.0  # 0: the likeliest token each time
    seed: int = 0
    stops: Sequence[str] = ()  # texts that end a continuation, as the model's own stop tokens do
    # what changes the scores of the next token before one is drawn, for a single batch of prompts
    processors: Sequence[LogitsProcessor] = ()


@dataclass(frozen=True)
class Written:
    """What a model wrote after a prompt."""

    text: str  # without special tokens, and cut before the stop token or text
    tokens: list[int]  # all that were written, those of the stop included
    ended: bool  # False: cut off after `Decoding.max_tokens`
    # log p of each token at the temperature at which it was drawn; none where none was drawn
    log_probs: list[float] | None = None


def write(bundle: Bundle, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Written]:
    """Continue prompts of one token or more each; the model is left as it was found.

    An encoder-decoder model reads the prompt in its encoder. Prompts and new tokens must fit into
    the model's context: see `require_room`. Prompts of different lengths share a batch unless
    padding moves what the model predicts, as it does in RWKV, which has no mask.
    """
    written: dict[int, Written] = {}
    with torch.no_grad(), _writing(bundle) as config:
        padded = decoding.batch_size == 1 or not _padding_moves(bundle, prompts, config)
        for indices in _batches(prompts, decoding.batch_size, padded=padded):
            batch = [prompts[index] for index in indices]
            found = _write_batch(bundle, batch, indices, decoding, config)
            written |= zip(indices, found, strict=True)
    return [written[index] for index in range(len(prompts))]


def require_generation(model: PreTrainedModel, key: str) -> None:
    """Raise ConfigError for a model that cannot write; `key` is who asks."""
    if not model.can_generate():
        msg = (
            f"{key} lets the model write, which a {type(model).__name__} cannot; choose a head "
            f"that can, such as head=causal_lm"
        )
        raise ConfigError(msg)


def require_room(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_tokens: int, key: str
) -> None:
    """Raise ConfigError where the longest prompt and `max_tokens` exceed the model's context.

    `key` is the option that holds `max_tokens`. An encoder-decoder model has a context for each.
    """
    context, longest = longest_context(model), max(map(len, prompts), default=0)
    needed = longest + max_tokens
    if model.config.is_encoder_decoder:
        needed = max(longest, max_tokens)
    if context is not None and needed > context:
        msg = (
            f"{key} is {max_tokens} and the longest prompt has {longest} tokens, more than the "
            f"context of the model: {context} (max_position_embeddings); lower {key}, or leave "
            f"out the long rows"
        )
        raise ConfigError(msg)


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a text: those of the generation config and of the tokenizer."""
    named = model.generation_config.eos_token_id
    ids = {*(named if isinstance(named, list) else [named]), *stop_ids(tokenizer)}
    return sorted(int(each) for each in ids if each is not None)


def _write_batch(
    bundle: Bundle,
    prompts: Sequence[Sequence[int]],
    indices: Sequence[int],
    decoding: Decoding,
    config: GenerationConfig,
) -> list[Written]:
    model, tokenizer = bundle.model, bundle.tokenizer
    inputs = _inputs(model, prompts, config)
    start = 1 if model.config.is_encoder_decoder else inputs["inputs"].shape[1]
    uniform_BN = random_numbers(decoding.seed, indices, decoding.max_tokens)
    draw = Draw(uniform_BN, decoding.temperature, start)
    ending = [StopTexts(tokenizer, decoding.stops, start)]
    config.max_new_tokens = decoding.max_tokens
    room = inputs["inputs"].shape[1] + decoding.max_tokens
    cache = reserved_cache(model, room)
    ids_BT = model.generate(  # type: ignore[operator]
        **inputs,
        **({} if cache is None else {"past_key_values": cache}),
        generation_config=config,
        logits_processor=[*decoding.processors, *([draw] if decoding.temperature else [])],
        stopping_criteria=ending if decoding.stops else None,
    )
    stops = set(cast("list[int]", config.eos_token_id or []))
    rows = [_finished(row, tokenizer, stops, decoding) for row in ids_BT[:, start:].tolist()]
    if not decoding.temperature:
        return rows
    drawn = zip(rows, draw.log_probs_BN().tolist(), strict=True)
    return [replace(row, log_probs=found[: len(row.tokens)]) for row, found in drawn]


def _finished(
    tokens: list[int], tokenizer: PreTrainedTokenizerBase, stops: set[int], decoding: Decoding
) -> Written:
    """Cut off what was padded after the end; the padding may well be the stop token itself."""

    def text_of(count: int) -> str:
        return cast("str", tokenizer.decode(tokens[:count], skip_special_tokens=True))

    def stop_place(count: int) -> int:
        places = [text_of(count).find(stop) for stop in decoding.stops]
        return min((place for place in places if place >= 0), default=-1)

    end = next((place for place, token in enumerate(tokens) if token in stops), None)
    written = len(tokens) if end is None else end
    if (place := stop_place(written)) >= 0:
        counts = range(written + 1)
        needed = bisect_left(counts, True, key=lambda count: stop_place(count) >= 0)
        return Written(text_of(written)[:place], tokens[:needed], ended=True)
    return Written(text_of(written), tokens[: written + 1], ended=end is not None)


@contextmanager
def _writing(bundle: Bundle) -> Iterator[GenerationConfig]:
    """Prepare a model for generation, and put everything back."""
    model, tokenizer = bundle.model, bundle.tokenizer
    training = [module for module in model.modules() if module.training]
    # PEFT wraps the model, and sets this of what it wraps.
    own = {each: vars(each)[NAME] for each in model.modules() if NAME in vars(each)}
    config = _config(model, tokenizer)
    for module in own:
        vars(module)[NAME] = config  # else transformers fills ours up from it
    model.eval()
    try:
        with _uncompiled(model), _cast_once(model):
            yield config
    finally:
        for module, before in own.items():
            vars(module)[NAME] = before
        for module in training:
            module.training = True


def _config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Return what greedy decoding needs of a model's generation config."""
    own = model.generation_config
    stops = stop_tokens(model, tokenizer)
    pads = (tokenizer.pad_token_id, own.pad_token_id, *stops, 0)
    return GenerationConfig(
        **{name: getattr(own, name, None) for name in STRUCTURE},
        eos_token_id=stops or None,
        pad_token_id=next(pad for pad in pads if pad is not None),
        do_sample=False,
        use_cache=True,
    )


@contextmanager
def _cast_once(model: PreTrainedModel) -> Iterator[None]:
    """Let autocast keep its casts of the weights, which it would make for every token.

    Lightning turns its cache off. It keeps those of weights that want a gradient, until the
    outermost autocast ends or its cache is cleared.
    """
    device = next(model.parameters()).device.type
    if not torch.is_autocast_enabled(device):
        yield
        return
    frozen = [
        weights
        for weights in model.parameters()
        if type(weights) is torch.nn.Parameter
        and weights.is_floating_point()
        and not weights.requires_grad
    ]
    for weights in frozen:
        weights.requires_grad_(True)
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(True)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)
        for weights in frozen:
            weights.requires_grad_(False)
        torch.clear_autocast_cache()  # made without gradients, which a training would miss


@contextmanager
def _uncompiled(model: PreTrainedModel) -> Iterator[None]:
    """Leave out torch.compile: every new length would be compiled anew."""
    if all(module._compiled_call_impl is None for module in model.modules()):  # noqa: SLF001
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _batches(prompts: Sequence[Sequence[int]], size: int, *, padded: bool) -> Iterator[list[int]]:
    """Yield the indices of prompts that share a batch, longest first; of one length if not padded.

    Only so many as their order allows: it is by length, so that there is little padding.
    """
    longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    groups = [longest_first]
    if not padded:
        by_length = groupby(longest_first, key=lambda index: len(prompts[index]))
        groups = [list(group) for _, group in by_length]
    for group in groups:
        for begin in range(0, len(group), size):
            yield group[begin : begin + size]


def _padding_moves(
    bundle: Bundle, prompts: Sequence[Sequence[int]], config: GenerationConfig
) -> bool:
    """Say whether a short prompt's next token is predicted otherwise beside a longer one."""
    short = min(prompts, key=len, default=())[:PROBE]
    longer = max(prompts, key=len, default=())[: len(short) + PROBE]
    if len(longer) == len(short):
        return False
    probing = copy.deepcopy(config)
    probing.update(max_new_tokens=1, output_logits=True, return_dict_in_generate=True)

    def logits(*given: Sequence[int]) -> Tensor:
        inputs = _inputs(bundle.model, given, config)
        found = bundle.model.generate(**inputs, generation_config=probing)  # type: ignore[operator]
        return cast("Tensor", found.logits[0][0].float())

    alone_V, beside_V = logits(short), logits(short, longer)
    spread = float(alone_V.max() - alone_V.min())
    return float((alone_V - beside_V).abs().max()) > MOVED * spread


def _inputs(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], config: GenerationConfig
) -> dict[str, Tensor]:
    """Return what `generate` reads: ids, the mask, and positions where they do not begin at 0."""
    is_encoder_decoder = bool(model.config.is_encoder_decoder)
    ids_BP, mask_BP = _padded(prompts, int(config.pad_token_id or 0), left=not is_encoder_decoder)
    inputs = {"inputs": ids_BP, "attention_mask": mask_BP}
    if not is_encoder_decoder and (first := first_position(cast("nn.Module", model))):
        inputs["position_ids"] = (mask_BP.cumsum(1) - 1).clamp(min=0) + first
    return {name: value.to(model.device) for name, value in inputs.items()}


def _padded(prompts: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Return ids_BP and mask_BP; what is padding is said by the mask, never by the id."""
    longest = max(map(len, prompts))
    ids_BP = torch.full((len(prompts), longest), pad)
    mask_BP = torch.zeros_like(ids_BP)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if left else slice(len(prompt))
        ids_BP[row, place] = torch.tensor(prompt)
        mask_BP[row, place] = 1
    return ids_BP, mask_BP
