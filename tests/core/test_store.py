"""The store: one process computes, the others find the result."""

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ontogeny.errors import ConfigError
from ontogeny.folders import find_damage, verify_manifest
from ontogeny.store import Store, home

BUILD_SLOWLY = """
import sys, time
from pathlib import Path
from ontogeny.store import Store

def build(folder):
    with (Path(sys.argv[1]) / "builds").open("a") as file:
        file.write("built\\n")
    time.sleep(0.6)
    (folder / "result").write_text("same for all")

print("ready", flush=True)
sys.stdin.readline()
waiting = lambda: print("waiting", flush=True)
entry = Store(Path(sys.argv[1])).create("examples", "k", build, waiting)
print((entry / "result").read_text())
"""

HOLD = """
import sys, time
from pathlib import Path
from ontogeny.store import Store

def build(folder):
    (folder / "half").write_text("")
    print("held", flush=True)
    time.sleep(60)

Store(Path(sys.argv[1])).create("examples", "k", build)
"""


@contextmanager
def python(script: str, root: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def write_result(folder: Path) -> None:
    (folder / "result").write_text("1")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def published(store: Store, key: str = "k") -> Path:
    folder = store.work("stages", key)
    write_result(folder)
    return store.publish("stages", key, folder, seconds=3)


def test_home_is_the_environment_variable_or_a_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ONTOGENY_HOME", str(tmp_path / "mine"))
    assert home() == tmp_path / "mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ONTOGENY_HOME", "~/mine")
    assert home() == tmp_path / "mine"
    monkeypatch.delenv("ONTOGENY_HOME")
    assert home() == tmp_path / ".cache" / "ontogeny"


def test_looking_into_a_store_makes_nothing(store: Store) -> None:
    assert store.get("stages", "k") is None
    assert not store.root.exists()


def test_unfinished_work_is_found_again_and_is_no_entry(store: Store) -> None:
    write_result(store.work("stages", "k"))
    assert (store.work("stages", "k") / "result").read_text() == "1"
    assert store.get("stages", "k") is None


def test_what_a_killed_process_left_half_written_is_not_published(store: Store) -> None:
    script = """
import os, sys
from pathlib import Path
from ontogeny.folders import write_folder
with write_folder(Path(sys.argv[1]) / "inner" / "checkpoint"):
    os.kill(os.getpid(), 9)
"""
    folder = store.work("stages", "k")
    subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert len(list((folder / "inner").iterdir())) == 1
    assert list((published(store) / "inner").iterdir()) == []


def test_published_work_is_an_entry_and_no_longer_work(store: Store) -> None:
    entry = published(store)
    assert store.get("stages", "k", verify=True) == entry == store.root / "stages" / "k"
    assert verify_manifest(entry) == {"seconds": 3}
    assert list((store.root / "work").iterdir()) == []


def test_the_first_of_two_publishers_wins(store: Store) -> None:
    entry = published(store)
    folder = store.work("stages", "k")
    (folder / "result").write_text("2")
    assert store.publish("stages", "k", folder) == entry
    assert (entry / "result").read_text() == "1"
    assert not folder.exists()


@pytest.mark.parametrize("file", ["MANIFEST.json", "result"])
def test_an_entry_with_a_missing_file_is_moved_aside_with_a_warning(
    file: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    (published(store) / file).unlink()
    assert store.get("stages", "k") is None
    assert caplog.record_tuples[0][:2] == ("ontogeny.store", logging.WARNING)
    assert f"stages/k is damaged ({file} is missing); moved to" in caplog.text
    assert not (store.root / "stages" / "k").exists()
    assert len(list((store.root / "broken").iterdir())) == 1
    assert store.get("stages", "k", verify=True) is None
    assert published(store) == store.get("stages", "k", verify=True)


def test_a_flipped_byte_is_found_when_asked_for(store: Store) -> None:
    entry = published(store)
    (entry / "result").write_text("2")
    assert store.get("stages", "k") == entry
    assert store.get("stages", "k", verify=True) is None


def test_create_builds_once(store: Store) -> None:
    entry = store.create("examples", "k", write_result)
    assert find_damage(entry) is None
    assert store.create("examples", "k", lambda _: pytest.fail("built twice")) == entry


def test_a_build_that_fails_leaves_no_entry_and_no_lock(store: Store) -> None:
    def fail(folder: Path) -> None:
        write_result(folder)
        msg = "no"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="no"):
        store.create("examples", "k", fail)
    assert list((store.root / "examples").iterdir()) == []
    assert (store.create("examples", "k", write_result) / "result").read_text() == "1"


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    with python(BUILD_SLOWLY, tmp_path) as one, python(BUILD_SLOWLY, tmp_path) as two:
        assert read_line(one) == read_line(two) == "ready"
        tell(one)
        tell(two)
        said = sorted([one.communicate()[0].split("\n"), two.communicate()[0].split("\n")])
    assert said == [["same for all", ""], ["waiting", "same for all", ""]]
    assert (tmp_path / "builds").read_text() == "built\n"


def test_a_killed_process_leaves_the_lock_free_and_no_half_entry(tmp_path: Path) -> None:
    with python(HOLD, tmp_path) as process:
        assert read_line(process) == "held"
        process.kill()
        process.wait()
    began = time.monotonic()
    entry = Store(tmp_path).create(
        "examples", "k", write_result, waiting=lambda: pytest.fail("still locked")
    )
    assert time.monotonic() - began < 1
    assert list(entry.parent.iterdir()) == [entry]
    assert {file.name for file in entry.iterdir()} == {"MANIFEST.json", "result"}


def test_different_entries_are_locked_apart(store: Store) -> None:
    with store.lock("stages", "a"), store.lock("stages", "b", lambda: pytest.fail("waited")):
        pass


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store")
    with pytest.raises(ConfigError) as caught:
        store.work("stages", "k")
    assert str(caught.value) == (
        f"the store {tmp_path}/file/store cannot be written (Not a directory); set the environment "
        "variable ONTOGENY_HOME to a folder that you may write"
    )
    assert store.get("stages", "k") is None
    with pytest.raises(ConfigError), store.lock("stages", "k"):
        pass


def test_importing_the_store_does_not_import_torch() -> None:
    script = "import ontogeny.store, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
