"""Real runs in processes of their own, through the real command line, each in its own store."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from ontogeny.lifecycle import RunResult

TINY = (
    "model.config.hidden_size=32",
    "model.config.num_hidden_layers=1",
    "model.config.num_attention_heads=2",
    "model.config.num_key_value_heads=2",
    "model.config.intermediate_size=64",
    "data.max_length=64",
    "data.batch_size=4",
    "tokenizer.vocab_size=300",
    "stage.sample_tokens=0",
)
PATIENCE = 120  # seconds for one run; they take about six
WORDS = [
    "the",
    "river",
    "stone",
    "of",
    "a",
    "wind",
    "was",
    "it",
    "light",
    "and",
    "dark",
    "house",
    "on",
    "road",
    "old",
    "young",
    "came",
    "saw",
]


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str


class Process:
    """A run that goes on beside the test, in a process group of its own."""

    def __init__(self, command: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        self.popen = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, folder: Path, pattern: str) -> None:
        """Return as soon as a path below the folder matches; the run must still go on then."""
        end = time.monotonic() + PATIENCE
        while not any(folder.glob(pattern)):
            assert self.popen.poll() is None, f"ended before {pattern}: {self.end()}"
            assert time.monotonic() < end, f"{pattern} never came"
            time.sleep(0.002)

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def send_to_all(self, number: int) -> None:
        """Signal the whole process group, as a terminal does."""
        os.killpg(self.popen.pid, number)

    @property
    def children(self) -> list[psutil.Process]:
        """The processes that it has started."""
        return psutil.Process(self.popen.pid).children()

    def kill(self) -> None:
        """End it with SIGKILL, together with every process that it started."""
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.end()

    def end(self) -> Ended:
        """Wait for its end."""
        try:
            out, err = self.popen.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            raise
        return Ended(self.popen.returncode, out, err)


class Place:
    """A folder to run in, with a store of its own, and what the runs left there."""

    def __init__(self, folder: Path, text: Path) -> None:
        self.folder = folder
        self.text = text
        self.store = folder / "store"
        self.store.mkdir(parents=True)

    @property
    def common(self) -> tuple[str, ...]:
        """The overrides of every tiny run here."""
        return (*TINY, f"data.path={self.text}")

    def start(self, *overrides: str, **environment: str) -> Process:
        """Start a tiny pre-training run in the background."""
        return self.start_as_is(*self.common, *overrides, **environment)

    def start_as_is(self, *arguments: str, **environment: str) -> Process:
        """Start `ontogeny` with these arguments only."""
        return self.start_command(sys.executable, "-m", "ontogeny", *arguments, **environment)

    def start_command(self, *command: str, **environment: str) -> Process:
        """Start any command in this place."""
        own = {"ONTOGENY_HOME": str(self.store), "OMP_WAIT_POLICY": "PASSIVE"}
        return Process(command, self.folder, {**own, **environment})

    def run(self, *overrides: str, **environment: str) -> Ended:
        """Run to the end."""
        return self.start(*overrides, **environment).end()

    def succeed(self, *overrides: str, **environment: str) -> Ended:
        """Run to the end, which must be a good one."""
        ended = self.run(*overrides, **environment)
        assert ended.code == 0, ended
        return ended

    @property
    def stage(self) -> Path:
        """The one stage in the store, else the one that is being worked on."""
        found = [*self.store.glob("stages/*"), *self.store.glob("work/stages-*")]
        assert found, "no stage was begun"
        return found[0]

    @property
    def states(self) -> list[Path]:
        """The training states of the unfinished stage, the oldest first."""
        return sorted(self.stage.glob("training_states/step-????????"))

    @property
    def weights(self) -> bytes:
        return (self.stage / "checkpoint" / "model.safetensors").read_bytes()

    @property
    def losses(self) -> list[tuple[int, str]]:
        """Step and `float.hex()` of the loss of every row of the log that has one."""
        with (self.stage / "logs" / "metrics.csv").open() as lines:
            rows = [row for row in csv.DictReader(lines) if row["train/loss"]]
        return [(int(row["step"]), float(row["train/loss"]).hex()) for row in rows]

    @property
    def unfinished(self) -> list[str]:
        """What a killed process left half written anywhere in the store."""
        return sorted(str(path) for path in self.store.rglob("*.tmp-*"))

    @property
    def run_folders(self) -> list[Path]:
        return sorted(self.folder.glob("outputs/*/*"), key=lambda path: path.stat().st_ctime_ns)

    @property
    def status(self) -> dict[str, object]:
        """What status.json of the newest run says."""
        content: dict[str, object] = json.loads((self.run_folders[-1] / "status.json").read_text())
        return content


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with some 15,000 tokens of nonsense in blocks of unequal length."""
    choose = random.Random(1)
    blocks = [" ".join(choose.choices(WORDS, k=choose.randint(3, 40))) for _ in range(300)]
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n\n".join(blocks))
    return file


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Return the overrides of a model of which a step takes some milliseconds."""
    return TINY


@pytest.fixture(scope="session")
def train(
    text: Path, tiny: Sequence[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RunResult]]:
    """Yield a function that runs in the store of a name, in this process, without evaluators."""
    from ontogeny.api import compose, run

    places = tmp_path_factory.mktemp("train")

    def train(store: str, *overrides: str) -> RunResult:
        patch.setenv("ONTOGENY_HOME", str(places / store))
        config = compose([*tiny, f"data.path={text}", "evaluator=[]", *overrides])
        return run(config, places / f"{store}-run")

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "plugin")
        yield train


@pytest.fixture(scope="session")
def new_place(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Callable[[], Place]:
    """Return a function that makes an empty place to run in."""
    return lambda: Place(tmp_path_factory.mktemp("place"), text)


@pytest.fixture(scope="session")
def both() -> Iterator[ThreadPoolExecutor]:
    """Yield an executor that keeps both cores busy with runs that do not depend on each other."""
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="session")
def unbroken_story(new_place: Callable[[], Place], both: ThreadPoolExecutor) -> Future[Place]:
    """Return the run of `trainer.max_steps=40` that goes through at once, beside the test."""

    def tell() -> Place:
        place = new_place()
        place.succeed("trainer.max_steps=40")
        return place

    return both.submit(tell)


@pytest.fixture(scope="session")
def unbroken(unbroken_story: Future[Place]) -> Place:
    """Return where `trainer.max_steps=40` went through at once."""
    return unbroken_story.result()


@pytest.fixture(scope="session")
def misbehaving() -> dict[str, str]:
    """Return the environment in which `objective=misbehaving` is known."""
    paths = [str(Path(__file__).parent / "plugin"), os.environ.get("PYTHONPATH", "")]
    return {"ONTOGENY_PLUGINS": "misbehaving", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
