"""Rows of a dataset on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.data.files import nearest_name
from ontogeny.data.formats import is_known
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset

    from ontogeny.data.rows import Parsed

NAME = re.compile(r"[\w-]{1,96}|[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)
SECONDS = 10.0  # to wait for the Hub's first answer
LONGEST_REASON = 200  # characters


def is_hub_name(path: str) -> bool:
    """Return whether `path` can only be a dataset's name.

    Not so when its first part exists here: a misspelt folder shall not go to the network.
    """
    local = Path(path)
    is_name = NAME.fullmatch(path) is not None and not is_known(local)
    return is_name and not Path(local.parts[0]).exists()


def hub_rows(name: str) -> Iterator[Parsed]:
    """Yield (number, row) of the split `train`, downloaded once by `datasets`."""
    for number, row in enumerate(_loaded(name), 1):
        yield number, dict(row)


def _loaded(name: str) -> Dataset:
    from datasets import load_dataset  # noqa: PLC0415  heavy
    from huggingface_hub import HfApi, constants  # noqa: PLC0415  heavy

    try:
        if not constants.HF_HUB_OFFLINE:  # ask first: load_dataset alone retries for 23 seconds
            HfApi().dataset_info(name, timeout=SECONDS)
        return load_dataset(name, split="train")
    except Exception as error:  # the kinds differ between versions of the Hub's client
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        msg = (
            f"{name!r} is neither a file, a glob, a folder nor a reachable Hub dataset"
            f"{nearest_name(Path(name))} ({reason})"
        )
        raise DataError(msg) from error
