"""What draws answers: this process with a KV cache, or vLLM beside it."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, cast

from ontogeny.errors import ConfigError
from ontogeny.generation import Decoding, Written, stop_tokens, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ontogeny.adapter import Bundle

VLLM_SHARE = 0.35  # of a GPU's memory; the rest is for training


class Engine(Protocol):
    """Draws answers from the weights as they are now."""

    def draw(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Written]:
        """Return an answer to each prompt, with log p of its tokens."""


class LocalEngine:
    """The model itself, in batches of prompts of like length, until all answers have ended."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def draw(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Written]:
        """Return an answer to each prompt, with log p of its tokens."""
        return write(self.bundle, prompts, decoding)


class VLLMEngine:
    """vLLM in the same process, which is given the weights before each draw.

    It samples with its own kernels, whose log-probabilities differ from those of the training.
    """

    def __init__(self, bundle: Bundle) -> None:
        if find_spec("vllm") is None:
            msg = "objective.engine is 'vllm', which is not installed: pip install vllm (on a GPU)"
            raise ConfigError(msg)
        if any("lora_" in name for name, _ in cast("nn.Module", bundle.model).named_parameters()):
            msg = (
                "objective.engine is 'vllm', which is given whole weights, but the model has an "
                "adapter: train all weights, or set objective.engine=local"
            )
            raise ConfigError(msg)
        self.bundle = bundle
        self._vllm: Any = importlib.import_module("vllm")
        self._engine: Any = None

    def draw(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Written]:
        """Return an answer to each prompt, with log p of its tokens."""
        engine = self._with_weights()
        sampling = [
            self._vllm.SamplingParams(
                temperature=decoding.temperature,
                max_tokens=decoding.max_tokens,
                seed=decoding.seed + index,
                logprobs=0,
                stop_token_ids=stop_tokens(self.bundle.model, self.bundle.tokenizer),
            )
            for index in range(len(prompts))
        ]
        given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        found = engine.generate(given, sampling, use_tqdm=False)
        return [self._written(request.outputs[0]) for request in found]

    def _written(self, output: Any) -> Written:
        tokens = list(output.token_ids)
        chosen = zip(tokens, output.logprobs, strict=True)
        log_probs = [float(found[token].logprob) for token, found in chosen]
        text = self.bundle.tokenizer.decode(tokens, skip_special_tokens=True)
        return Written(str(text), tokens, output.finish_reason == "stop", log_probs)

    def _with_weights(self) -> Any:
        model = cast("Any", self.bundle.model)
        if self._engine is None:
            self._engine = self._vllm.LLM(
                model=model.name_or_path,
                skip_tokenizer_init=True,
                gpu_memory_utilization=VLLM_SHARE,
                logprobs_mode="processed_logprobs",  # at the temperature of the draw
            )
        weights = [(name, each.detach()) for name, each in model.named_parameters()]
        self._engine.apply_model(lambda own: own.load_weights(iter(weights)))
        self._engine.reset_prefix_cache()
        return self._engine


def engine_of(name: str, bundle: Bundle) -> Engine:
    """Return the engine of `objective.engine`."""
    return VLLMEngine(bundle) if name == "vllm" else LocalEngine(bundle)
