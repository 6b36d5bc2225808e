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
        write_text(unfinished / LINEAGE, json.dumps(lineage, indent=2, default=str) + "\n")
        write_text(unfinished / CARD, _card(lineage))
    return folder


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
    digest = digest_folder(folder, ignore={LINEAGE, CARD, "MANIFEST.json"}, cache=cache)
    if key == "tokenizer.source":
        return digest
    if is_adapter_folder(source):
        base = base_of_adapter(key, source)
        return digest_json({"adapter": digest, "base": checkpoint_digest(key, base, cache)})
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


def _card(lineage: Mapping[str, object]) -> str:
    """Return a model card with the facts of the lineage."""
    data = cast("list[dict[str, object]]", lineage.get("data", []))
    lines = [
        "---",
        "library_name: transformers",
        "tags: [ontogeny]",
        "---",
        f"# {lineage.get('stage', 'checkpoint')}",
        "",
        f"Made by the stage `{lineage.get('stage')}` of Ontogeny.",
        "`lineage.json` beside this file holds its whole configuration.",
        "",
        f"- parent: {lineage.get('parent') or 'none (random weights)'}",
        f"- steps: {lineage.get('steps')}",
        *(f"- data: {source.get('path')} ({source.get('rows')} rows)" for source in data),
        "",
    ]
    return "\n".join(lines)
