"""The content address of a stage: what can change its result changes it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from ontogeny import CheckpointError, DataError, compose
from ontogeny.configuration import StageConfig
from ontogeny.keys import _file_digests, package_versions, stage_key
from ontogeny.options import FILE, Data, Source, Trainer
from ontogeny.plugins import Registry, registry
from ontogeny.store import Store

Key = Callable[[StageConfig], str]


@pytest.fixture(scope="module")
def composed() -> StageConfig:
    return compose(["data.path=text.txt"]).stages["pretraining"]


@pytest.fixture
def config(composed: StageConfig, home: Path) -> StageConfig:
    Path("text.txt").write_text("one\n\ntwo\n\nthree")
    return deepcopy(composed)


@pytest.fixture
def key(home: Path) -> Key:
    return lambda config: stage_key(config, registry(), Store(home))


def changed(config: StageConfig, path: str, value: object) -> StageConfig:
    """Return a copy in which the option at a dotted path has another value."""
    copy = deepcopy(config)
    node: object = copy
    *parents, last = path.split(".")
    for name in parents:
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    if isinstance(node, dict):
        node[last] = value
    else:
        assert getattr(node, last) != value, "the same value would prove nothing"
        setattr(node, last, value)
    return copy


def test_the_key_is_the_same_every_time(config: StageConfig, key: Key) -> None:
    assert key(config) == key(deepcopy(config))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 1),
        ("precision", "32-true"),
        ("model.config.hidden_size", 64),
        ("model.attention", "eager"),
        ("tokenizer.vocab_size", 300),
        ("tokenizer.algorithm", "characters"),
        ("data.max_length", 64),
        ("data.batch_size", 4),
        ("data.packing", False),
        ("data.text_unit", "line"),
        ("data.text_column", "body"),
        ("data.on_error", "skip"),
        ("data.validation.share", 0.1),
        ("data.validation.limit", 3),
        ("objective.document_end", False),
        ("optimizer.lr", 0.5),
        ("scheduler.shape", "linear"),
        ("trainer.max_steps", 7),
        ("trainer.max_epochs", 2.0),
        ("trainer.accumulate_grad_batches", 2),
        ("trainer.gradient_clip_val", None),
        ("trainer.evaluate_every", 5),
        ("trainer.monitor_mode", "max"),
        ("trainer.patience", 3),
        ("forgetting.budget", 0.1),
        ("forgetting.source", "prose"),
        ("optimizer.embedding_lr", 0.1),
        ("evaluator.perplexity.max_length", 16),
        ("stage.sample_tokens", 1),
    ],
)
def test_what_can_change_the_result_changes_the_key(
    path: str, value: object, config: StageConfig, key: Key
) -> None:
    assert key(changed(config, path, value)) != key(config)


VOLATILE = [
    ("preflight", False),
    ("resume", "never"),
    ("callbacks.timer", {"_target_": "lightning.pytorch.callbacks.Timer"}),
    ("logger.wandb", {"_target_": "lightning.pytorch.loggers.WandbLogger"}),
    ("data.workers", 3),
    ("trainer.max_time", "10m"),
    ("when", "diagnose:specialised"),
    ("trainer.save_every_steps", 5),
    ("trainer.save_every_minutes", 1.0),
    ("trainer.log_every", 1),
    ("trainer.accelerator", "cpu"),
    ("trainer.devices", 2),
    ("trainer.num_nodes", 2),
    ("trainer.strategy", "ddp"),
    ("trainer.progress", False),
]


@pytest.mark.parametrize(("path", "value"), VOLATILE, ids=[path for path, _ in VOLATILE])
def test_what_cannot_change_the_result_does_not_change_the_key(
    path: str, value: object, config: StageConfig, key: Key
) -> None:
    assert key(changed(config, path, value)) == key(config)


def test_every_option_that_is_marked_as_volatile_was_tried() -> None:
    schemas = {"": StageConfig, "trainer.": Trainer, "data.": Data}
    marked = {
        f"{prefix}{item.name}"
        for prefix, schema in schemas.items()
        for item in fields(schema)
        if item.metadata.get("volatile")
    }
    whole = ("callbacks", "logger")
    tried = {path.partition(".")[0] if path.startswith(whole) else path for path, _ in VOLATILE}
    assert marked == tried


def test_another_place_of_the_same_text_is_the_same_key(config: StageConfig, key: Key) -> None:
    before = key(config)
    Path("folder").mkdir()
    Path("text.txt").rename("folder/text.txt")
    assert key(changed(config, "data.path", "folder/text.txt")) == before


def test_another_text_at_the_same_place_is_another_key(config: StageConfig, key: Key) -> None:
    before = key(config)
    Path("text.txt").write_text("one\n\ntwo\n\nfour!")
    assert key(config) != before


def test_the_text_of_the_validation_counts_and_its_place_does_not(
    config: StageConfig, key: Key
) -> None:
    for name, text in (("a.txt", "same"), ("b.txt", "same"), ("c.txt", "other")):
        Path(name).write_text(text)
    a, b, c = (key(changed(config, "data.validation.path", f"{name}.txt")) for name in "abc")
    assert a == b != c
    assert a != key(config)


def test_names_and_weights_of_sources_count(config: StageConfig, key: Key) -> None:
    def mixture(**weights: float) -> str:
        copy = changed(config, "data.path", None)
        copy.data.sources = {name: Source("text.txt", weight) for name, weight in weights.items()}
        return key(copy)

    assert mixture(a=0.5, b=0.5) == mixture(a=0.5, b=0.5)
    assert len({mixture(a=0.5, b=0.5), mixture(a=0.6, b=0.4), mixture(a=0.5, c=0.5)}) == 3


@pytest.mark.parametrize("group", ["model", "tokenizer", "teacher"])
def test_a_checkpoint_counts_with_its_content_and_not_with_its_place(
    group: str, config: StageConfig, key: Key
) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        Path(name).mkdir()
        Path(name, "config.json").write_text("{}")
        Path(name, "model.safetensors").write_text(text)
        Path(name, "lineage.json").write_text(name)
    a, b, c = (key(changed(config, f"{group}.source", name)) for name in "abc")
    assert a == b != c
    assert a != key(config)


def test_inputs_that_are_not_there_are_errors(config: StageConfig, key: Key) -> None:
    with pytest.raises(DataError, match=r"absent.txt does not exist"):
        key(changed(config, "data.path", "absent.txt"))
    with pytest.raises(CheckpointError, match=r"teacher.source is './absent'"):
        key(changed(config, "teacher.source", "./absent"))


def test_the_code_of_the_plugins_in_use_counts(
    config: StageConfig, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(config)
    version = Registry.code_version

    def newer(self: Registry, plugin: object) -> str:
        name = getattr(plugin, "name", "")
        return version(self, plugin) + ("!" if name == "perplexity" else "")  # type: ignore[arg-type]

    monkeypatch.setattr(Registry, "code_version", newer)
    assert key(config) != before
    without = deepcopy(config)
    without.evaluator = {}
    newer_key = key(without)
    monkeypatch.setattr(Registry, "code_version", version)
    assert key(without) == newer_key


def test_versions_are_those_that_are_installed() -> None:
    import torch

    versions = package_versions()
    assert versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert versions["ontogeny"] == "0.1.0"
    assert "not installed" not in versions.values()


def test_texts_that_are_compared_count_with_their_content(config: StageConfig, key: Key) -> None:
    Path("other.txt").write_text("four")
    Path("same.txt").write_text("four")
    config.data.domain.path = "other.txt"
    first = key(config)
    assert key(changed(config, "data.domain.path", "same.txt")) == first
    Path("other.txt").write_text("five")
    assert key(config) != first


def test_rows_that_a_source_holds_out_elsewhere_count(config: StageConfig, key: Key) -> None:
    Path("held_out.txt").write_text("four")
    config.data.path = None
    config.data.sources = {"a": Source("text.txt", validation="held_out.txt")}
    first = key(config)
    Path("held_out.txt").write_text("five")
    assert key(config) != first


@dataclass
class Asks:
    """An evaluator's options that name a file."""

    path: str | None = field(default=None, metadata=FILE)


def test_a_file_that_a_component_names_counts_with_its_content(
    config: StageConfig, home: Path
) -> None:
    Path("questions.txt").write_text("what?")
    config.evaluator = {"asks": Asks("questions.txt")}
    first = _file_digests(config, Store(home))
    Path("questions.txt").write_text("why?")
    assert _file_digests(config, Store(home)) != first
    config.evaluator = {"asks": Asks()}
    assert _file_digests(config, Store(home)) == {}


def test_adapters_that_apply_in_another_order_give_another_key(
    config: StageConfig, key: Key
) -> None:
    orders = [compose([f"adapter=[{names}]"]) for names in ("full,lora", "lora,full")]
    keys = []
    for order in orders:
        config.adapter = order.stages["pretraining"].adapter
        keys.append(key(config))
    assert len(set(keys)) == 2


def test_sources_in_another_order_give_another_key(config: StageConfig, key: Key) -> None:
    config.data.path = None
    keys = []
    for names in (["one", "other"], ["other", "one"]):
        config.data.sources = {name: Source(path="text.txt") for name in names}
        keys.append(key(config))
    assert len(set(keys)) == 2
