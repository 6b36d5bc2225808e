"""Checkpoints: the ordinary Hugging Face folders that pass between stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ontogeny.data.files import nearest_name
from ontogeny.data.hub import is_hub_name
from ontogeny.digest import digest_folder, digest_json
from ontogeny.errors import CheckpointError
from ontogeny.folders import write_folder, write_text
from ontogeny.token_ids import set_token_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.digest import DigestCache
    from ontogeny.evaluator import Metrics

ADAPTER = "adapter_config.json"  # what PEFT's folders hold: an adapter beside its base model
LINEAGE = "lineage.json"
CARD = "README.md"
GENERATION = "generation_config.json"  # with the tokens that end an answer


def save_checkpoint(bundle: Bundle, folder: Path, lineage: Mapping[str, object]) -> Path:
    """Write weights, tokenizer, generation config, lineage and card; all of it or nothing."""
    with write_folder(folder, replace=True) as unfinished:
        set_token_ids(bundle.model, bundle.tokenizer)
        bundle.head.save(bundle.model, unfinished)
        if bundle.model.can_generate() and not (unfinished / GENERATION).exists():
            bundle.model.generation_config.save_pretrained(unfinished)  # beside an adapter, too
        save_tokenizer(bundle.tokenizer, unfinished)
        write_lineage(unfinished, lineage)
    return folder


def write_lineage(folder: Path, lineage: Mapping[str, object]) -> None:
    """Write lineage.json, and the model card made from it, into a checkpoint's folder.

    `figures` in the lineage, as `figures_of` makes them, are what the stage has measured beside
    its metrics.
    """
    from ontogeny.card import model_card  # noqa: PLC0415  imports huggingface_hub

    write_text(folder / LINEAGE, json.dumps(lineage, indent=2, default=str) + "\n")
    write_text(folder / CARD, model_card(lineage, folder))


def figures_of(metrics: Mapping[str, Metrics]) -> dict[str, dict[str, object]]:
    """Return metrics in the form in which lineage and card have them: by heading, by name."""
    return {
        heading: {name: metric.as_dict() for name, metric in found.items()}
        for heading, found in metrics.items()
    }


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer so that older readers open it too.

    They do not know the class name that transformers 5 writes, nor the template's own file.
    """
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if tokenizer.chat_template:
        config["chat_template"] = tokenizer.chat_template
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def checkpoint_of(folder: str) -> Path:
    """Return a checkpoint's folder: the given one, or the one in the folder of a stage."""
    inside = Path(folder) / "checkpoint"
    return inside if (inside / "config.json").exists() else Path(folder)


def read_lineage(folder: Path) -> dict[str, object]:
    """Return where a checkpoint comes from; empty for one that Ontogeny did not write."""
    file = folder / LINEAGE
    if not folder.is_dir():
        msg = f"{folder} is no folder; expected a checkpoint"
        raise CheckpointError(msg)
    return read_object(file) if file.exists() else {}


def read_object(file: Path) -> dict[str, object]:
    """Return what a JSON file of a checkpoint holds; raise CheckpointError if it is damaged."""
    try:
        return cast("dict[str, object]", json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        msg = f"{file} is not valid JSON: {error}"
        raise CheckpointError(msg) from error


def checkpoint_digest(key: str, source: str, cache: DigestCache | None = None) -> str:
    """Return the digest of a folder's content, or the name itself for one on the Hub.

    That of an adapter beside its base covers both. `key` is the option that names it; files that
    the cache knows are not read. Raises CheckpointError where neither can be.
    """
    folder = Path(source)
    if is_hub_name(source):
        return f"hub:{source}"
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else f"does not exist{nearest_name(folder)}"
        msg = f"{key} is {source!r}, which {what}; expected a checkpoint folder or a Hub name"
        raise CheckpointError(msg)
    beside = {LINEAGE, CARD, "MANIFEST.json"}
    if is_adapter_folder(source) and key != "tokenizer.source":
        base = base_of_adapter(key, source)
        own = {**read_object(folder / ADAPTER), "base_model_name_or_path": None}  # is elsewhere
        digest = digest_folder(folder, ignore={*beside, ADAPTER}, cache=cache)
        parts = {"adapter": digest, "config": own, "base": checkpoint_digest(key, base, cache)}
        return digest_json(parts)
    digest = digest_folder(folder, ignore=beside, cache=cache)
    if key == "tokenizer.source":
        return digest
    if not (folder / "config.json").exists():
        msg = f"{key} is {source!r}, which holds no config.json; expected a checkpoint folder"
        raise CheckpointError(msg)
    return digest


def is_adapter_folder(source: str) -> bool:
    """Say whether a path is a folder that holds an adapter and no model of its own."""
    return (Path(source) / ADAPTER).is_file()


def base_of_adapter(key: str, source: str) -> str:
    """Return the folder or Hub name of the model that an adapter was trained on.

    `key` is the option that names the adapter. Raises CheckpointError if the base is not there.
    """
    base = read_object(Path(source) / ADAPTER).get("base_model_name_or_path")
    what = None
    if not isinstance(base, str) or not base:
        what = f"whose {ADAPTER} names no base_model_name_or_path: write it in"
    elif not Path(base).is_dir() and not is_hub_name(base):
        what = (
            f"an adapter on the base {base!r}, which does not exist: move it back, or write where "
            f"it is into base_model_name_or_path of {ADAPTER}"
        )
    elif is_adapter_folder(base):
        what = f"an adapter on {base!r}, which is an adapter itself: merge that one first"
    if what is not None:
        raise CheckpointError(f"{key} is {source!r}, {what}")
    return cast("str", base)
