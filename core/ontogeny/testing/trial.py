"""A place to try a component: a composed stage, a small model, a tokenizer, a folder of its own."""

from __future__ import annotations

import json
import os
import pickle
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import torch

from ontogeny.adapter import Adapter, Bundle
from ontogeny.annotations import Recorded
from ontogeny.api import compose
from ontogeny.checkpoint import save_checkpoint
from ontogeny.companions import Companions
from ontogeny.component import GROUPS, LIST_KINDS, Kind
from ontogeny.configuration import RunConfig, StageConfig, stable
from ontogeny.data.corpus import Corpus
from ontogeny.digest import digest_json
from ontogeny.errors import ConfigError, OntogenyError
from ontogeny.evaluator import Evaluator
from ontogeny.exporter import Exporter
from ontogeny.head import Head
from ontogeny.objective import Objective
from ontogeny.options import Model, Validation
from ontogeny.plugins import registry
from ontogeny.reward import Reward
from ontogeny.seeding import seed_everything
from ontogeny.stage import Stage
from ontogeny.store import Store
from ontogeny.testing.contract import ContractError, require
from ontogeny.testing.options import check_options, first_scalar
from ontogeny.testing.rows import sample_rows
from ontogeny.testing.tokenizer import byte_tokenizer
from ontogeny.tokenizers import named_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.objective import Example, Row
    from ontogeny.plugins import Registered

CONTRACTS: dict[Kind, type] = {
    "stage": Stage,
    "objective": Objective,
    "head": Head,
    "adapter": Adapter,
    "evaluator": Evaluator,
    "exporter": Exporter,
    "reward": Reward,
}
# For stages that go on from a checkpoint: where the composition names no architecture.
ARCHITECTURE: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
WRONG = "certainly_no_number"


@dataclass
class Trial:
    """A component, built, and the stage in which it is tried."""

    who: str  # for messages
    run: RunConfig
    component: object  # built out of its options
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    facts: dict[str, object] = field(default_factory=dict)  # what a survey has found
    adapters: list[Adapter] = field(default_factory=list)  # of the last bundle
    others: Companions | None = None  # what the objective has begun with

    @property
    def config(self) -> StageConfig:
        """The only stage of the run."""
        return next(iter(self.run.stages.values()))

    def bundle(self, *, adapted: bool = True) -> Bundle:
        """Return the stage's model, the same at every call, with or without its adapters."""
        head = cast("Head", registry().build(self.config.head))
        head.configure(self.facts)
        seed_everything("weights")
        bundle = Bundle(head.load(self.config.model, self.tokenizer), self.tokenizer, head)
        self.adapters = []
        for name, options in self.config.adapter.items() if adapted else ():
            adapter = cast("Adapter", registry().build(options))
            self.extended(adapter)
            seed_everything("adapter", name)
            bundle = adapter.apply(bundle)
            self.adapters.append(adapter)
        return bundle

    def extended(self, adapter: Adapter) -> PreTrainedTokenizerBase:
        """Return the tokenizer that an adapter makes, for sample rows of the stage's objective."""
        if type(adapter).extend is Adapter.extend:
            return self.tokenizer
        columns = cast("Objective", registry().build(self.config.objective)).columns
        return adapter.extend(self.tokenizer, self._corpus(columns, sample_rows(columns)))

    def companions(self) -> Companions:
        """Return the other models that components of this stage may ask for."""
        head = cast("Head", registry().build(self.config.head))
        head.configure(self.facts)
        tokenizer, store = self.tokenizer, Store(self.folder / "corpus")
        device = torch.device("cpu")
        return Companions(self.config, registry(), store, head, tokenizer, tokenizer, device)

    def annotated(self, objective: Objective, examples: Sequence[Example]) -> list[Example]:
        """Let an objective begin; return the examples with what its companion says of each."""
        self.others = self.companions()
        objective.begin(self.others)
        companion = objective.annotator()
        if companion is None or isinstance(companion, Recorded):
            return list(examples)
        model = cast("nn.Module", companion.load().model)
        found = []
        for example in examples:
            with torch.no_grad():
                columns = objective.annotate(model, objective.collate([example]))
            new = {name: values[0].numpy() for name, values in columns.items()}
            found.append({**example, **new})
        return found

    def complete(self, objective: Objective) -> Bundle:
        """Return a model with what the objective trains beside it, as before the first step."""
        bundle = self.bundle()
        if self.others is not None:
            self.others.adapted(bundle, self.adapters)
        objective.auxiliary(bundle)
        return bundle

    def survey(self, objective: Objective, rows: Sequence[Row]) -> None:
        """Let the objective look at all rows, as it does before any is prepared."""
        self.facts = objective.survey(self._corpus(objective.columns, rows))

    def _corpus(self, columns: Sequence[Sequence[str]], rows: Sequence[Row]) -> Corpus:
        """Return rows as those of a stage, all to be trained on."""
        file = self.folder / "corpus.jsonl"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        validation = Validation(share=0.0)
        data = replace(self.config.data, path=str(file), sources={}, validation=validation)
        return Corpus(data, columns, Store(self.folder / "corpus"), lambda _: None)


@contextmanager
def trial(kind: Kind, name: str, stage: str, overrides: Sequence[str] = ()) -> Iterator[Trial]:
    """Check what all components promise, and yield a place to check what this kind promises.

    `stage` names the composition, `overrides` change it. Nothing is left behind: the store of this
    trial lies in its folder.
    """
    who = f"{kind} {name}"
    registered = _registered(kind, name, who)
    check_options(who, registered.component.config)
    run, options = _composed(registered, kind, [f"stage={stage}", *overrides], who)
    component = _built(kind, registered, options, who)
    with TemporaryDirectory(prefix="ontogeny-") as place, store_at(Path(place, "store")):
        made = Trial(who, run, component, Path(place), byte_tokenizer())
        if kind not in {"stage", "head"}:  # which are tried by themselves
            _equip(made)
        yield made


def _registered(kind: Kind, name: str, who: str) -> Registered:
    try:
        found = registry().get(kind, name)
        broken = f"its plugin {found.plugin.name} does not work: {found.plugin.error}"
        require(found.plugin.error is None, who, broken, "see `ontogeny plugins`")
        registry().check()
    except OntogenyError as error:
        problems = "; ".join(registry().problems)
        raise ContractError(f"{who}: {error}" + f"; {problems}" * bool(problems)) from error
    return found


def _composed(
    registered: Registered, kind: Kind, overrides: Sequence[str], who: str
) -> tuple[RunConfig, object]:
    """Return a composed run and the options of the component in it."""
    name, schema = registered.component.name, registered.component.config
    overrides = [*overrides, *_choice(kind, name, overrides)]
    leaf = name.rpartition("/")[2]
    try:
        run = compose(overrides)
    except OntogenyError as error:
        line = f"{who}: {' '.join(overrides)} does not compose: {error}"
        raise ContractError(line) from error
    options = getattr(next(iter(run.stages.values())), kind)
    options = options.get(leaf) if kind in LIST_KINDS else options
    _check_type(who, f"{kind}.{leaf}" if kind in LIST_KINDS else kind, schema, overrides)
    broken = f"{GROUPS[kind]}={name} composes {type(options).__name__}, no {schema.__name__}"
    mend = "choose it in the overrides, and a stage that has a place for it"
    require(isinstance(options, schema), who, broken, mend)
    other = registry().find(options)[1].component
    broken = f"it shares its options, {schema.__name__}, with {kind} {other.name}"
    mend = "give each component a dataclass of its own: it is found by it"
    require(other is registered.component, who, broken, mend)
    return run, options


def _choice(kind: Kind, name: str, overrides: Sequence[str]) -> list[str]:
    key = "stage_options@stage" if kind == "stage" else GROUPS[kind]
    if any(item.partition("=")[0] == key for item in overrides):
        return []  # a variant, or several of a list, is what the author wants to try
    return [f"{key}=[{name}]" if kind in LIST_KINDS else f"{key}={name}"]


def _check_type(who: str, key: str, schema: type, overrides: Sequence[str]) -> None:
    field = first_scalar(schema)
    if field is None:
        return
    try:
        compose([*overrides, f"{key}.{field}={WRONG}"])
    except ConfigError:
        return
    broken = f"{key}.{field}={WRONG} is accepted, though {schema.__name__}.{field} is a number"
    require(False, who, broken, "let nothing else be stored in Hydra's ConfigStore by its name")


def _built(kind: Kind, registered: Registered, options: object, who: str) -> object:
    """Return the implementation, built; raise ContractError for what its class breaks."""
    component, contract = registered.component, CONTRACTS[kind]
    try:
        implementation = component.load()
    except OntogenyError as error:
        raise ContractError(f"{who}: {error}") from error
    broken = f"{component.implementation} is no {contract.__name__}"
    require(issubclass(implementation, contract), who, broken, f"derive it from {contract}")
    try:
        built: object = implementation(options)
    except TypeError as error:
        line = f"{who}: {implementation.__name__}(options) fails: {error}"
        raise ContractError(line) from error
    _check_pickling(who, options, "options")
    _check_key(who, options)
    if kind == "objective":
        _check_pickling(who, built, "worker processes get the objective, which")
    return built


def _check_key(who: str, options: object) -> None:
    """Check that options can be part of the stage's key, which is a digest of JSON."""
    try:
        digest_json(stable(options))
    except (TypeError, ValueError) as error:
        mend = "use numbers, text, true and false, lists and dictionaries"
        line = f"{who}: options cannot be part of the stage's key: {error}; {mend}"
        raise ContractError(line) from error


def _check_pickling(who: str, value: object, what: str) -> None:
    broken = f"{what} cannot be pickled"
    mend = "define the class in a module, and hold no open files, locks or lambdas"
    try:
        again = pickle.loads(pickle.dumps(value))  # noqa: S301  made on this line
    except Exception as error:
        raise ContractError(f"{who}: {broken}: {error}; {mend}") from error
    equal = not hasattr(value, "__dataclass_fields__") or again == value
    require(equal, who, f"{what} are {again} after pickling, {value} before", mend)


def _equip(made: Trial) -> None:
    """Give the stage a tokenizer, and a checkpoint where it names no architecture."""
    config = made.config
    config.trainer.accelerator, config.trainer.devices = "cpu", 1
    config.data.max_length = 64
    if config.model.source is not None:
        made.tokenizer = named_tokenizer(config) or made.tokenizer
        return
    head = cast("Head", registry().build(config.head))
    seed_everything("start")
    model = head.load(Model(config=config.model.config or ARCHITECTURE), made.tokenizer)
    start = save_checkpoint(Bundle(model, made.tokenizer, head), made.folder / "start", {})
    config.tokenizer.source = str(start)
    if not config.model.config:
        config.model.source = str(start)


@contextmanager
def store_at(folder: Path) -> Iterator[None]:
    """Let the store be in another folder for a while."""
    before = os.environ.get("ONTOGENY_HOME")
    os.environ["ONTOGENY_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["ONTOGENY_HOME"]
        else:
            os.environ["ONTOGENY_HOME"] = before
