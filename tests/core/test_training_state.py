"""Training states: whatever happens, there is a sound one to go on from."""

import logging
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import pytest
import torch

from ontogeny.disk_space import folder_size
from ontogeny.errors import CheckpointError
from ontogeny.folders import verify_manifest
from ontogeny.leftovers import sweep_stale
from ontogeny.training_state import Found, TrainingStates, find_latest, prune

MEGABYTE = 10**6
SAVE_FOR_EVER = """
import itertools, os, sys
from pathlib import Path
import torch
from ontogeny.training_state import TrainingStates, find_latest, prune

root = Path(sys.argv[1])
print("ready", flush=True)
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        for step in itertools.count(find_latest(root).step + 1):
            state = {"step": step, "weights": torch.full((5_000_000,), float(step))}
            TrainingStates().save_checkpoint(state, root / f"step-{step:08d}")
            prune(root)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


def save(root: Path, step: int, size: int = 4000) -> Path:
    """Save a state of about `size` bytes."""
    path = root / f"step-{step:08d}"
    state = {"global_step": step, "weights": torch.full((size // 4,), float(step))}
    TrainingStates().save_checkpoint(state, path)
    return path


def load(path: Path) -> dict[str, object]:
    return TrainingStates().load_checkpoint(path)


def flip(file: Path, position: int = -500) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def disk_of(capacity: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the system report a disk of so many bytes that holds nothing but `root`."""
    usage = type(shutil.disk_usage(root))

    def report(_: Path) -> object:
        used = folder_size(root)
        return usage(capacity, used, capacity - used)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", report)
        yield


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state: dict[str, object] = {
        "weights": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "sparse": torch.eye(3).to_sparse(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": [OrderedDict(a=(1, 2.5, None, True, "é", b"x")), {1: {2, 3}}],
        "kinds": [torch.float32, torch.device("cpu"), torch.Size([2, 3])],
    }
    TrainingStates().save_checkpoint(state, tmp_path / "step-00000012")
    loaded = load(tmp_path / "step-00000012")
    tensors = [name for name, value in state.items() if isinstance(value, torch.Tensor)]
    for name in tensors:
        expected, value = state.pop(name), loaded.pop(name)
        assert isinstance(expected, torch.Tensor)
        assert isinstance(value, torch.Tensor)
        assert torch.equal(value.to_dense(), expected.to_dense())
    assert loaded == state


def test_the_manifest_says_step_and_versions(tmp_path: Path) -> None:
    facts = verify_manifest(save(tmp_path, 12))
    assert facts["step"] == 12
    assert facts["world_size"] == 1
    versions = facts["versions"]
    assert isinstance(versions, dict)
    assert torch.__version__.startswith(versions["torch"])
    assert versions["lightning"] == L.__version__


class Pair(NamedTuple):
    """A tuple that only code could make again."""

    left: int


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(1), "numpy.float64"),
        (np.zeros(2), "numpy.ndarray"),
        (Path("/data"), "pathlib.PosixPath"),
        (Pair(1), "Pair"),
        (signal.SIGTERM, "signal.Signals"),
        (len, "builtins.builtin_function_or_method"),
    ],
)
def test_a_value_that_only_code_could_read_back_is_refused_by_its_place(
    value: object, kind: str, tmp_path: Path
) -> None:
    checkpoint: dict[str, object] = {"callbacks": {"Best": [0, {"score": value}]}}
    with pytest.raises(CheckpointError, match=r"callbacks.Best\[1\].score is a .*" + kind):
        TrainingStates().save_checkpoint(checkpoint, tmp_path / "step-00000001")
    assert names(tmp_path) == []


def test_a_key_that_only_code_could_read_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"training state hosts is a pathlib"):
        TrainingStates().save_checkpoint({"hosts": {Path("/"): 1}}, tmp_path / "step-00000001")


def test_a_state_that_runs_code_is_not_loaded_even_when_asked_to(tmp_path: Path) -> None:
    from ontogeny.folders import write_manifest

    folder = tmp_path / "step-00000001"
    folder.mkdir()
    torch.save({"x": namedtuple}, folder / "state.pt")  # noqa: PYI024
    write_manifest(folder)
    with pytest.raises(Exception, match="Weights only load failed"):
        TrainingStates().load_checkpoint(folder, weights_only=False)


def test_no_state_is_found_where_there_is_none(tmp_path: Path) -> None:
    assert find_latest(tmp_path / "none") == find_latest(tmp_path) == Found(None, 0, [])


def test_the_newest_state_is_the_one_with_the_highest_step(tmp_path: Path) -> None:
    for step in (9, 100_000_000, 10):
        save(tmp_path, step)
    (tmp_path / "step-00000200.tmp-host-1-00000000-00000000").mkdir()
    (tmp_path / "step-final").mkdir()
    assert find_latest(tmp_path) == Found(tmp_path / "step-100000000", 100_000_000, [])


def test_a_state_with_a_flipped_byte_is_named_and_the_one_before_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = save(tmp_path, 30), save(tmp_path, 40)
    flip(bad / "state.pt")
    found = find_latest(tmp_path)
    message = (
        f"training state {bad} is damaged (state.pt does not match its digest); "
        "taking step-00000030"
    )
    assert found == Found(good, 30, [message])
    assert caplog.record_tuples == [("ontogeny.training_state", logging.WARNING, message)]
    with pytest.raises(CheckpointError, match=r"state\.pt does not match its digest"):
        load(bad)


def test_a_truncated_state_is_named_and_the_one_before_taken(tmp_path: Path) -> None:
    good, bad = save(tmp_path, 30), save(tmp_path, 40)
    os.truncate(bad / "state.pt", 1000)
    found = find_latest(tmp_path)
    assert found.path == good
    assert "step-00000040 is damaged (state.pt has 1000 bytes, expected" in found.refused[0]


def test_when_every_state_is_damaged_all_are_named(tmp_path: Path) -> None:
    for step in (30, 40):
        flip(save(tmp_path, step) / "state.pt")
    found = find_latest(tmp_path)
    assert (found.path, len(found.refused)) == (None, 2)
    assert all(line.endswith("there is no other to take") for line in found.refused)


def test_a_sound_state_of_that_step_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path, 30)
    before = (path / "state.pt").stat()
    save(tmp_path, 30, size=8000)
    assert (path / "state.pt").stat() == before


def test_a_damaged_state_of_that_step_is_replaced(tmp_path: Path) -> None:
    flip(save(tmp_path, 30) / "state.pt")
    path = save(tmp_path, 30)
    assert load(path)["global_step"] == 30
    assert names(tmp_path) == [path.name]


def test_a_save_sweeps_what_a_dead_process_left(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    mark = f"tmp-{socket.gethostname()}-{process.pid}-00000000-00000000"
    (tmp_path / f"step-00000010.{mark}").mkdir()
    save(tmp_path, 20)
    assert names(tmp_path) == ["step-00000020"]


def test_pruning_keeps_the_newest_two_good_states(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, step)
    (tmp_path / "step-00000010" / "MANIFEST.json").unlink()
    os.truncate(tmp_path / "step-00000040" / "state.pt", 10)
    prune(tmp_path)
    assert names(tmp_path) == ["step-00000030", "step-00000040", "step-00000050"]
    prune(tmp_path, keep=1)
    assert names(tmp_path) == ["step-00000050"]


def test_a_removed_state_is_gone(tmp_path: Path) -> None:
    path = save(tmp_path, 10)
    TrainingStates().remove_checkpoint(path)
    TrainingStates().remove_checkpoint(path)
    assert names(tmp_path) == []


def test_on_a_short_disk_the_oldest_state_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with disk_of(5 * MEGABYTE // 2, tmp_path, monkeypatch):
        for step in (10, 20, 30):
            save(tmp_path, step, size=MEGABYTE)
    assert names(tmp_path) == ["step-00000020", "step-00000030"]
    assert "deleting the training state" in caplog.text


def test_on_a_short_disk_damaged_states_go_before_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10, size=MEGABYTE)
    flip(save(tmp_path, 20, size=MEGABYTE) / "state.pt")
    with disk_of(5 * MEGABYTE // 2, tmp_path, monkeypatch):
        save(tmp_path, 30, size=MEGABYTE)
    assert names(tmp_path) == ["step-00000010", "step-00000030"]


def test_the_last_good_state_stays_when_nothing_makes_enough_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (10, 20):
        save(tmp_path, step, size=MEGABYTE)
    with (
        disk_of(3 * MEGABYTE, tmp_path, monkeypatch),
        pytest.raises(CheckpointError, match=r"no space left on .*step-00000030 .*about 3.3 MB"),
    ):
        save(tmp_path, 30, size=3 * MEGABYTE)
    assert find_latest(tmp_path) == Found(tmp_path / "step-00000020", 20, [])


def test_a_disk_that_fills_up_during_a_save_leaves_nothing_torn(tmp_path: Path) -> None:
    save(tmp_path, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MEGABYTE, hard))
    try:
        with pytest.raises(CheckpointError) as caught:
            save(tmp_path, 20, size=8 * MEGABYTE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step-00000020 (File too large): needed about 4.0 MB or more" in str(caught.value)
    assert names(tmp_path) == ["step-00000010"]


def test_a_kill_at_any_moment_leaves_a_sound_newest_state(tmp_path: Path) -> None:
    draw = random.Random(time.time_ns())
    environment = {**os.environ, "TMPDIR": "/dev/shm", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)]
    pipe, step, cut_off = subprocess.PIPE, 1, 0
    save(tmp_path, step, size=20_000_000)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        assert nursery.stdout.readline() == "ready\n"
        for _ in range(8):
            print("go", file=nursery.stdin, flush=True)
            child = int(nursery.stdout.readline())
            time.sleep(draw.uniform(0.02, 0.6))
            os.kill(child, signal.SIGKILL)
            assert nursery.stdout.readline() == "dead\n"
            cut_off += any(".tmp-" in name for name in names(tmp_path))
            found = find_latest(tmp_path)
            assert found.refused == []
            assert found.step >= step
            step = found.step
            assert found.path is not None
            weights = load(found.path)["weights"]
            assert isinstance(weights, torch.Tensor)
            assert torch.equal(weights, torch.full((5_000_000,), float(step)))
        nursery.stdin.close()
    assert cut_off > 0
    sweep_stale(tmp_path)
    assert all(len(name) == len("step-00000000") for name in names(tmp_path))


class Line(L.LightningModule):
    """One weight, moved by one tenth in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return (self.weight * batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)


def fit(steps: int, root: Path, resume: Path | None = None) -> tuple[L.Trainer, Line]:
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[TrainingStates()],
        default_root_dir=root,
    )
    module = Line()
    batches = torch.utils.data.TensorDataset(torch.ones(20, 1))
    trainer.fit(module, torch.utils.data.DataLoader(batches), ckpt_path=resume)
    return trainer, module


# All batches are alike here, so their order after a restart does not matter.
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_lightning_goes_on_from_a_state(tmp_path: Path) -> None:
    trainer, _ = fit(3, tmp_path)
    trainer.save_checkpoint(tmp_path / "step-00000003")
    trainer, resumed = fit(5, tmp_path, find_latest(tmp_path).path)
    assert trainer.global_step == 5
    _, unbroken = fit(5, tmp_path)
    assert torch.equal(resumed.weight, unbroken.weight)
