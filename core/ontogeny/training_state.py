"""Training states: what a run that was cut off goes on from. Never a checkpoint."""

from __future__ import annotations

import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from typing_extensions import override

from ontogeny.disk_space import free_bytes, full_disk_error
from ontogeny.errors import CheckpointError
from ontogeny.folders import (
    find_damage,
    remove_folder,
    verify_manifest,
    write_folder,
    write_manifest,
)
from ontogeny.leftovers import sweep_stale

STATE = "state.pt"
PACKAGES = ("ontogeny", "torch", "lightning", "transformers")
SPARE_ROOM = 1.1  # free bytes wanted per byte of tensors
_STEP = re.compile(r"step-(\d+)")
_log = logging.getLogger("ontogeny.training_state")

# What torch.load(weights_only=True) reads back; it runs no code from the file.
_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(torch.dtype, torch.device, torch.Size, torch.layout),
)
_SEQUENCES = (list, tuple, set)
_MAPPINGS = (dict, OrderedDict, Counter)


@dataclass(frozen=True)
class Found:
    """The newest sound training state of a folder, and why newer ones were refused."""

    path: Path | None = None
    step: int = 0
    refused: list[str] = field(default_factory=list)
    rows_per_step: int | None = None  # as it was when the state was saved
    ended: bool = False  # whether the run was over there, before its last step


class TrainingStates(CheckpointIO):
    """Keeps each training state in a folder `step-<n>` that is complete, or not there at all.

    Only tensors and plain values go in: reading a state must never run code from it.
    """

    @override
    def save_checkpoint(
        self,
        checkpoint: dict[str, object],
        path: str | Path,
        storage_options: object | None = None,
    ) -> None:
        """Write a training state as the folder `path`; one that is there and sound is kept.

        Raises CheckpointError for a value that could not be read back, and for a full disk:
        states that are there stay.
        """
        if storage_options is not None:
            msg = f"storage_options is {storage_options!r}; training states take none"
            raise TypeError(msg)
        folder = Path(path)
        tensors = dict(_tensors(checkpoint, ""))
        sweep_stale(folder.parent)
        if folder.exists() and find_damage(folder) is None:
            return
        _make_room(folder, int(SPARE_ROOM * sum(tensors.values())))
        with write_folder(folder, replace=True) as unfinished:
            # An open file, not its path: only then does a full disk show up as an OSError.
            with (unfinished / STATE).open("wb") as file:
                torch.save(checkpoint, file)
            write_manifest(unfinished, **_facts(folder, checkpoint))

    @override
    def load_checkpoint(
        self,
        path: str | Path,
        map_location: object | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, object]:
        """Return a training state, on the CPU unless told otherwise, after checking its digests.

        `weights_only` is what Lightning passes; it is never taken for False. Raises
        CheckpointError naming the file that is missing or damaged.
        """
        del weights_only
        folder = Path(path)
        verify_manifest(folder)
        # No memory map: tensors the optimiser keeps would hold the file after it is pruned.
        state = torch.load(
            folder / STATE,
            map_location="cpu" if map_location is None else map_location,  # type: ignore[arg-type]
            weights_only=True,
        )
        return cast("dict[str, object]", state)

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a training state."""
        if Path(path).exists():
            remove_folder(Path(path))


def find_latest(root: Path) -> Found:
    """Return the newest training state in a folder whose digests hold.

    Each newer one that is damaged is warned of, and named in `refused`.
    """
    damages: list[tuple[Path, str]] = []
    found = None
    for step, path in sorted(_states(root), reverse=True):
        damage = find_damage(path)
        if damage is None:
            found = (step, path)
            break
        damages.append((path, damage))
    instead = f"taking {found[1].name}" if found else "there is no other to take"
    refused = [f"training state {path} is damaged ({why}); {instead}" for path, why in damages]
    for message in refused:
        _log.warning(message)
    if found is None:
        return Found(refused=refused)
    facts = verify_manifest(found[1], digests=False)
    rows = cast("int | None", facts.get("rows_per_step"))
    return Found(found[1], found[0], refused, rows, bool(facts.get("ended")))


def prune(root: Path, keep: int = 2) -> None:
    """Delete all training states that are older than the newest `keep` good ones.

    Good means complete here: digests are checked when a state is read, not at every save.
    """
    states = sorted(_states(root), reverse=True)
    good = [step for step, path in states if find_damage(path, digests=False) is None]
    for step, path in states:
        if len(good) >= keep and step < good[keep - 1]:
            _remove_or_warn(path)


def _states(root: Path) -> Iterator[tuple[int, Path]]:
    """Yield (step, folder) of every training state below a folder, whatever its condition."""
    for path in root.iterdir() if root.is_dir() else []:
        match = _STEP.fullmatch(path.name)
        if match is not None and path.is_dir():
            yield int(match[1]), path


def _make_room(folder: Path, needed: int) -> None:
    """Delete old training states until a new one fits, but never the last that can be read."""
    if free_bytes(folder) >= needed:
        return
    states = [path for _, path in sorted(_states(folder.parent))]
    good = [path for path in states if find_damage(path) is None]
    for path in [*(path for path in states if path not in good), *good[:-1]]:
        _log.warning("deleting the training state %s: the disk is nearly full", path)
        _remove_or_warn(path)
        if free_bytes(folder) >= needed:
            return
    raise full_disk_error(folder, needed)


def _remove_or_warn(path: Path) -> None:
    """Delete a training state; one that cannot be deleted is no reason to end a run."""
    try:
        remove_folder(path)
    except OSError as error:
        _log.warning("%s could not be deleted: %s", path, error)


def _facts(folder: Path, checkpoint: Mapping[str, object]) -> dict[str, object]:
    """Return what the manifest says of a training state."""
    match = _STEP.fullmatch(folder.name)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "step": int(match[1]) if match else checkpoint.get("global_step"),
        "rows_per_step": checkpoint.get("rows_per_step"),
        "ended": checkpoint.get("ended", False),
        "world_size": torch.distributed.get_world_size() if distributed else 1,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tensors(value: object, where: str) -> Iterator[tuple[int, int]]:
    """Yield (address, bytes) of each tensor's memory; raise for what cannot be read back."""
    kind = type(value)  # a subclass, such as numpy's float64, is not what it looks like
    if isinstance(value, torch.Tensor) and kind.__module__.partition(".")[0] == "torch":
        yield _memory(value)
    elif kind in _MAPPINGS:
        for key, item in cast("Mapping[object, object]", value).items():
            yield from _tensors(key, where)
            yield from _tensors(item, f"{where}.{key}" if where else str(key))
    elif kind in _SEQUENCES:
        for position, item in enumerate(cast("list[object]", value)):
            yield from _tensors(item, f"{where}[{position}]")
    elif kind not in _PLAIN:
        msg = (
            f"training state {where} is a {kind.__module__}.{kind.__qualname__}; expected only "
            "tensors, numbers, strings, lists, tuples, sets and dicts, which can be read back "
            "without running code: convert it where it is saved"
        )
        raise CheckpointError(msg)


def _memory(tensor: torch.Tensor) -> tuple[int, int]:
    """Return (address, bytes) of a tensor's memory, which views share and is saved once."""
    try:
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    except (NotImplementedError, RuntimeError):  # sparse and wrapped tensors have none
        return id(tensor), tensor.numel() * tensor.element_size()
