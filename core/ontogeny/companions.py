"""The other models of a training or a measurement: the one it began with, a teacher, a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from ontogeny.adapter import Adapter, Bundle
from ontogeny.checkpoint import base_of_adapter, checkpoint_digest, is_adapter_folder
from ontogeny.configuration import stable
from ontogeny.digest import digest_json
from ontogeny.errors import ConfigError
from ontogeny.head import Head
from ontogeny.options import Model
from ontogeny.seeding import seed_everything
from ontogeny.token_ids import added_since, grow_embeddings, set_token_ids
from ontogeny.tokenizers import load_tokenizer, named_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ontogeny.configuration import StageConfig
    from ontogeny.plugins import Registry
    from ontogeny.store import Store


@dataclass(frozen=True)
class Companion:
    """Another model: what it is by its content, and how to have it."""

    key: str  # the option that names it, for messages
    digest: str
    load: Callable[[], Bundle]  # frozen, in eval mode, on the device; a new one at every call
    tokenizer: Callable[[], PreTrainedTokenizerBase]  # without the model


@dataclass(frozen=True)
class Branch:
    """Another model on the weights of the one that is trained."""

    model: PreTrainedModel  # it computes as the branch within `on()`
    on: Callable[[], AbstractContextManager[None]]
    beside: Mapping[str, Tensor]  # what an adapter folder holds beside, such as a head


def given_model(
    config: StageConfig, head: Head, tokenizer: PreTrainedTokenizerBase
) -> tuple[Bundle, int]:
    """Return the model that a stage is given, before any adapter, and how many rows it got anew.

    It is the same at every call: random weights depend on the seed alone.
    """
    seed_everything(config.seed, "weights")
    bundle = Bundle(head.load(config.model, tokenizer), tokenizer, head)
    bundle.model.config.use_cache = False
    named = named_tokenizer(config)
    new = [] if named is None else added_since(tokenizer, named)
    rows = grow_embeddings(bundle.model, tokenizer, new)
    set_token_ids(bundle.model, tokenizer)
    return bundle, rows


class Companions:
    """Gives objectives and evaluators the other models that they work with."""

    def __init__(
        self,
        config: StageConfig,
        registry: Registry,
        store: Store,
        head: Head,
        given: PreTrainedTokenizerBase,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.config = config
        self.registry = registry
        self.store = store
        self.tokenizer = tokenizer  # of the data
        self.device = device
        self.announce = announce  # say a line to the user
        self._head = head
        self._given = given  # the tokenizer of the model that the stage is given
        self._adapted: tuple[Bundle, Sequence[Adapter]] | None = None

    @property
    def original(self) -> Companion:
        """The model that the stage is given, as it is before any adapter and any step."""
        options, source = self.config.model, self.config.model.source
        if source is None:
            digest = digest_json([stable(options), self.config.seed])
        else:
            digest = checkpoint_digest("model.source", source)
        return Companion("model.source", digest, self._load_original, lambda: self._given)

    @property
    def teacher(self) -> Companion | None:
        """The model of `teacher.source`, with the head of the stage; none where that is not set."""
        source = self.config.teacher.source
        return None if source is None else self.checkpoint("teacher.source", source)

    def checkpoint(self, key: str, source: str, head: str | None = None) -> Companion:
        """Return the model of a folder or Hub name, with a head by its name or that of the stage.

        `key` is the option that names it, declared with `field(metadata=CHECKPOINT)`. Raises
        CheckpointError where there is none.
        """
        digest = checkpoint_digest(key, source)

        def load() -> Bundle:
            tokenizer = load_tokenizer(key, source)
            own = self._head_named(head)
            seed_everything(self.config.seed, "weights", key)
            model = own.load(replace(Model(), source=source, attention=self._attention), tokenizer)
            return self._frozen(Bundle(model, tokenizer, own))

        return Companion(key, digest, load, lambda: load_tokenizer(key, source))

    def trained(self, head: str, source: str | None = None) -> Bundle:
        """Return a model of its own to train, with a head by its name and the stage's adapters.

        It has the weights of a checkpoint, or those that the stage is given.
        """
        model = self.config.model if source is None else replace(self.config.model, source=source)
        config = replace(self.config, model=model)
        bundle = given_model(config, self._head_named(head), self._given)[0]
        for name, options in self.config.adapter.items():
            adapter = cast("Adapter", self.registry.build(options))
            seed_everything(self.config.seed, "adapter", name)
            bundle = adapter.apply(bundle)
        cast("nn.Module", bundle.model).to(self.device)
        return bundle

    def branch(self, name: str, source: str | None = None) -> Branch:
        """Return another model on the weights of the one that is trained, by adapters of its own.

        They are trained, or come frozen out of an adapter folder on the same base. Raises
        ConfigError without an adapter, or with one that can have no second set of weights.
        """
        if self._adapted is None or not self._adapted[1]:
            msg = (
                "one model cannot be two without an adapter: choose one with 'adapter=[...]', "
                "or give the other model weights of its own"
            )
            raise ConfigError(msg)
        bundle, adapters = self._adapted
        if source is not None:
            _require_same_base(self.config.model.source, source, name)
        adapter = adapters[-1]
        seed_everything(self.config.seed, "branch", name)
        beside = adapter.branch(bundle, name, source)
        cast("nn.Module", bundle.model).to(self.device)
        return Branch(bundle.model, lambda: adapter.on(bundle, name), beside)

    def require_same_tokens(self, companion: Companion) -> None:
        """Raise ConfigError where a companion reads other ids than the data has."""
        own, data = companion.tokenizer().get_vocab(), self.tokenizer.get_vocab()
        if own == data:
            return
        if own.items() <= data.items():
            why = (
                f"does not know {len(data) - len(own)} of the {len(data)} tokens of the data, "
                f"which an adapter has added: extend the vocabulary in a stage before"
            )
        else:
            why = (
                f"has another vocabulary ({len(own)} tokens) than the data ({len(data)}): the same "
                f"ids are other words to it; take a model with the same tokenizer"
            )
        raise ConfigError(f"{companion.key} {why}")

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Let the model that is trained compute what it did before its adapters, for a while.

        Raises ConfigError where it cannot: without adapters, and where they train its own weights.
        """
        if self._adapted is None or not self._adapted[1]:
            msg = (
                "there is no adapter to switch off: the model's own weights are trained; choose "
                "one that leaves them as they are"
            )
            raise ConfigError(msg)
        bundle, adapters = self._adapted
        with ExitStack() as stack:
            for adapter in reversed(adapters):
                stack.enter_context(adapter.off(bundle))
            yield

    @property
    def has_adapters(self) -> bool:
        """Whether the model that is trained has got its adapters: not yet where a stage begins."""
        return self._adapted is not None and bool(self._adapted[1])

    def adapted(self, bundle: Bundle, adapters: Sequence[Adapter]) -> None:
        """Take the model that is trained, once its adapters are in; called by the core."""
        self._adapted = (bundle, adapters)

    @property
    def _attention(self) -> str:
        return self.config.model.attention

    def _head_named(self, name: str | None) -> Head:
        if name is None:
            return cast("Head", self.registry.build(self.config.head))
        registered = self.registry.get("head", name)
        return cast("Head", self.registry.build(registered.component.config()))

    def _load_original(self) -> Bundle:
        return self._frozen(given_model(self.config, self._head, self._given)[0])

    def _frozen(self, bundle: Bundle) -> Bundle:
        model = cast("nn.Module", bundle.model)
        model.requires_grad_(False).eval().to(self.device)
        return bundle


def _require_same_base(given: str | None, source: str, name: str) -> None:
    """Raise ConfigError unless a folder holds an adapter on the weights that the stage is given."""
    if not is_adapter_folder(source):
        msg = (
            f"{source!r} cannot share the model that is trained as its {name}: it is no adapter "
            f"folder; train it with an adapter that is kept beside its base, or give it weights of "
            f"its own"
        )
        raise ConfigError(msg)
    base = base_of_adapter(name, source)
    if given is None or checkpoint_digest(name, base) != checkpoint_digest("model.source", given):
        msg = (
            f"{source!r} cannot share the model that is trained as its {name}: it is an adapter on "
            f"{base!r}, and model.source is {given!r}; take one on the same base, or give it "
            f"weights of its own"
        )
        raise ConfigError(msg)
