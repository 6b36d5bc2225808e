"""What all methods of PEFT share: put in, trained beside a frozen model, merged or kept."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

from transformers.pytorch_utils import Conv1D

from ontogeny.adapter import Adapter, Bundle, ParameterGroup
from ontogeny.checkpoint import is_adapter_folder
from ontogeny.errors import ConfigError
from ontogeny.models import plain_weights, trained_share
from ontogeny.preflight import Proof
from ontogeny.quantization import is_quantised
from ontogeny_plugins.lora.folder import (
    AdapterFolderHead,
    fingerprints,
    has_shape_of_its_base,
)
from ontogeny_plugins.lora.injection import (
    Injection,
    add_branch,
    frozen_weights,
    inject,
    injection_of,
    is_injected,
    merge,
    quiet,
)
from ontogeny_plugins.lora.methods import has_field, require_known
from ontogeny_plugins.lora.proofs import merge_error, start_proof
from ontogeny_plugins.lora.targets import (
    ALL_LINEAR,
    Choice,
    Layer,
    choose_layers,
    outside_adapters,
    short_names,
    trained_beside,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from peft import PeftConfig
    from torch import Tensor
    from transformers import PreTrainedModel

    from ontogeny.objective import Batch

MERGE_TOLERANCE = 1e-5  # relative, float32


class Common(Choice, Protocol):
    """The options that all methods have."""

    merge: bool
    requantise: bool


class PeftAdapter(Adapter):
    """A method of PEFT, in place: the model keeps its class, and its own weights are frozen."""

    # False where the method changes the model's own weights to begin with: it has no way back.
    leaves_base = True

    def __init__(self, key: str, options: Common) -> None:
        self.key = key  # of the options, for messages
        self.choice: Choice = options
        self.merge = options.merge
        self._options = options
        self.name = ""
        self.layers: list[Layer] = []  # as they were when the adapter was put in

    @abstractmethod
    def configuration(self, model: PreTrainedModel, targets: list[str] | None) -> PeftConfig:
        """Return PEFT's configuration; targets are the ends of names, None PEFT's own choice."""

    def check_layers(self, layers: list[Layer]) -> None:
        """Raise ConfigError for layers that the method cannot change."""
        del layers

    def apply(self, bundle: Bundle) -> Bundle:
        """Put the adapter in and freeze all else but what is trained beside."""
        model = bundle.model
        self._check_settling(model)
        self._trainable = {name: each.requires_grad for name, each in model.named_parameters()}
        self.frozen = frozen_weights(model)
        self.beside = trained_beside(model, self.key, self.choice.train_also)
        added = self._added(model)
        targets = self._choose(model, added)
        chosen = {layer.name for layer in self.layers}
        self.beside |= {name for name in added if name.rpartition(".")[0] not in chosen}
        self.put_in(model, targets)
        return bundle

    def put_in(self, model: PreTrainedModel, targets: list[str] | None) -> None:
        """Inject what the options say into a model without this adapter."""
        config = self.configuration(model, targets)
        if targets is None:
            require_known(self.key, model, config)
        self.name = inject(model, self.key, config, self.frozen)
        own = outside_adapters(model)
        self._require_free(injection_of(model))
        for name in self.beside:
            own[name].requires_grad_(True)
        self._try_to_merge(model)
        self.base = {} if self.merge else fingerprints(own)

    def configured(
        self, kind: type[PeftConfig], targets: list[str] | None, **options: object
    ) -> PeftConfig:
        """Return a configuration of PEFT; raise ConfigError for values that it refuses."""
        if has_field(kind, "fan_in_fan_out"):  # the layout of GPT-2's matrices
            transposed = [isinstance(layer.module, Conv1D) for layer in self.layers]
            options["fan_in_fan_out"] = bool(transposed) and all(transposed)
        try:
            with quiet():
                return cast("Any", kind)(target_modules=targets, **options)  # type: ignore[no-any-return]
        except (ValueError, TypeError, ImportError, NotImplementedError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{self.key}: PEFT refuses: {reason}") from error

    def _choose(self, model: PreTrainedModel, added: set[str]) -> list[str] | None:
        """Return which layers are meant; of those that were added, only what is named."""
        if not self.choice.target_modules:
            self._require_no_choice()
            return None
        whole = self.beside | (added if self.choice.target_modules == [ALL_LINEAR] else set())
        self.layers = choose_layers(model, self.key, self.choice, whole, self.frozen)
        self.check_layers(self.layers)
        return short_names(model, self.layers)

    def _added(self, model: PreTrainedModel) -> set[str]:
        """Return what another adapter has added to the model, to be trained: it stays so."""
        plain = plain_weights(model)
        own = outside_adapters(model).items()
        return {name for name, each in own if each.requires_grad and name not in plain}

    def _require_free(self, injection: Injection) -> None:
        """Refuse PEFT's own choice of layers where another adapter has frozen one of them."""
        layers = injection.tuner.targeted_module_names
        fixed = [name for name in layers if f"{name}.weight" in self.frozen]
        if fixed:
            msg = (
                f"{self.key} would change {fixed[0]}, which another adapter has frozen: name the "
                f"layers, with {self.key}.target_modules"
            )
            raise ConfigError(msg)

    def _require_no_choice(self) -> None:
        for name in ("exclude_modules", "layers"):
            if getattr(self.choice, name):
                msg = (
                    f"{self.key}.{name} is set, but {self.key}.target_modules is [], PEFT's own "
                    f"choice; name the layers, as {self.key}.target_modules=[all-linear]"
                )
                raise ConfigError(msg)

    def _check_settling(self, model: PreTrainedModel) -> None:
        self.requantise = is_quantised(model) and self._options.requantise
        if self.merge:
            return
        source = model.name_or_path
        why = None
        if not source:
            why = "the model has random weights, so no base would be there to load beside it"
        elif is_adapter_folder(source):
            why = f"model.source is {source!r}, an adapter itself: merge that one first"
        elif is_injected(model):
            why = "the model has another adapter: one folder holds one"
        elif not has_shape_of_its_base(model):
            why = "another adapter has given the model another shape than its base has"
        if why is not None:
            raise ConfigError(f"{self.key}.merge is false, which keeps an adapter beside: {why}")

    def _try_to_merge(self, model: PreTrainedModel) -> None:
        """Merge a copy of one layer now: what cannot be merged must not be found out at the end."""
        self.merge_error: float | None = None
        if not self.merge or is_quantised(model):
            return
        try:
            acting = injection_of(model).tuner.active_adapters
            self.merge_error = merge_error(model, self.name, acting)
        except (ValueError, NotImplementedError, RuntimeError) as error:
            msg = (
                f"{self.key} cannot be merged into {type(model).__name__}: "
                f"{' '.join(str(error).split()).rstrip('.')}; set {self.key}.merge=false"
            )
            raise ConfigError(msg) from error

    def parameter_groups(self, bundle: Bundle) -> Iterable[ParameterGroup]:
        """Leave vectors out of weight decay, also those that PEFT holds as matrices of one row."""
        vectors = [
            parameter
            for parameter in bundle.model.parameters()
            if parameter.requires_grad and parameter.numel() == max(parameter.shape, default=1)
        ]
        yield ParameterGroup(vectors, weight_decay=0.0)

    def settle(self, bundle: Bundle) -> Bundle:
        """Merge, or return a bundle that saves a PEFT folder beside its base."""
        model = bundle.model
        if not self.merge:
            injection_of(model).drop_branches()
            head = AdapterFolderHead(bundle.head, self.name, self.base, self.start())
            return Bundle(model, bundle.tokenizer, head)
        injection = injection_of(model)
        injection.drop_branches()
        injection.settled.add(self.name)
        if injection.settled >= set(injection.names):  # the last of them merges all
            merge(model, requantise=self.requantise)
        own = outside_adapters(model)
        for name, requires_grad in self._trainable.items():
            if name in own:
                own[name].requires_grad_(requires_grad)
        return bundle

    def start(self) -> dict[str, Tensor]:
        """Return what the adapter began with, where its base is not what is on disk."""
        return {}

    @contextmanager
    def off(self, bundle: Bundle) -> Iterator[None]:
        """Let the model compute what it did before this adapter was put in."""
        trained = [
            name for name, each in outside_adapters(bundle.model).items() if each.requires_grad
        ]
        if trained:
            msg = (
                f"{self.key} cannot be switched off: {len(trained)} of the model's own weights are "
                f"trained beside it, such as {trained[0]}; take a frozen copy for a reference"
            )
            raise ConfigError(msg)
        if not self.leaves_base:
            msg = (
                f"{self.key} cannot be switched off: its init changes the model's own weights to "
                f"begin with; take a frozen copy for a reference, or {self.key}.init=default"
            )
            raise ConfigError(msg)
        with self._silent(injection_of(bundle.model)):
            yield

    def branch(self, bundle: Bundle, name: str, source: str | None = None) -> Mapping[str, Tensor]:
        """Put a second adapter of the same form, or that of a folder, beside this one."""
        if source is None and any(
            each.requires_grad for each in outside_adapters(bundle.model).values()
        ):
            msg = (
                f"{self.key} trains weights of the model itself, too, of which there is one set: "
                f"leave out {self.key}.train_also, or give the other model weights of its own"
            )
            raise ConfigError(msg)
        return add_branch(bundle.model, self.name, name, source)

    def on(self, bundle: Bundle, name: str) -> AbstractContextManager[None]:
        """Let a branch act instead of what the model has."""
        return injection_of(bundle.model).active([name])

    @contextmanager
    def alone(self, bundle: Bundle) -> Iterator[None]:
        """Let this adapter alone act, of all that the model has."""
        with injection_of(bundle.model).active([self.name]):
            yield

    @contextmanager
    def _silent(self, injection: Injection) -> Iterator[None]:
        others = [name for name in injection.tuner.active_adapters if name != self.name]
        with injection.active(others):
            yield

    def proofs(self, bundle: Bundle, batch: Batch) -> Iterable[Proof]:
        """Say how much is trained; prove where it starts, and that it merges."""
        model, injection = bundle.model, injection_of(bundle.model)
        layers = len(injection.tuner.targeted_module_names)
        evidence = f"{trained_share(model)}, in {layers} layers"
        yield Proof(f"{self.key} trains few weights", True, evidence)
        if self.leaves_base:
            promise = self.tolerance if self.keeps_function else None
            silent = self._silent(injection)
            yield start_proof(model, batch, silent, f"{self.key} starts as its base", promise)
        if self.merge_error is not None:
            evidence = f"relative difference {self.merge_error:.1e} in one layer of each kind"
            merges = self.merge_error < MERGE_TOLERANCE
            yield Proof(f"{self.key} merges to what it computes", merges, evidence)
