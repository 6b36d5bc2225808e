"""`ontogeny store`: listing, verifying and tidying."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ontogeny.errors import ConfigError, OntogenyError
from ontogeny.run_folder import link_stage
from ontogeny.store import Store
from ontogeny.store_command import store_command

DAY = 86400


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home)


def put(store: Store, key: str, *, kind: str = "stages", days: float = 0) -> Path:
    folder = store.work(kind, key)
    (folder / "checkpoint").mkdir()
    lineage = {"stage": f"stage of {key}", "steps": 7, "parent": None}
    (folder / "checkpoint" / "lineage.json").write_text(json.dumps(lineage))
    metrics = {"s": {"perplexity": {"bits_per_byte": {"value": 1.5, "unit": "bits/byte"}}}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    entry = store.publish(kind, key, folder)
    aged(entry, days)
    return entry


def aged(folder: Path, days: float) -> None:
    then = time.time() - days * DAY
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


def used_by(store: Store, entry: Path, run: Path) -> None:
    with store.running(run):
        link_stage(run, "s", entry)


def test_an_empty_store_is_listed(home: Path) -> None:
    assert store_command([]) == f"store {home}\n  empty"


def test_every_entry_is_listed_with_age_and_use(store: Store, tmp_path: Path) -> None:
    used_by(store, put(store, "aaaa", days=3), tmp_path / "run")
    put(store, "bbbb", kind="examples")
    first, second = store_command([]).splitlines()[1:]
    assert first.split()[:2] == ["examples", "bbbb"]
    assert "no run" in first
    assert second.split()[:2] == ["stages", "aaaa"]
    assert "3d ago  1 runs    stage of aaaa, 7 steps" in second


def test_sizes_add_up(store: Store) -> None:
    put(store, "aaaa")
    put(store, "bbbb")
    lines = [line.split() for line in store_command(["size"]).splitlines()[1:]]
    assert ["stages", *lines[0][1:3], "2", "entries"] == lines[0]
    assert lines[-1][0] == "all"


def test_an_entry_is_shown_by_the_first_digits_of_its_key(store: Store, tmp_path: Path) -> None:
    used_by(store, put(store, "aaaa"), tmp_path / "run")
    text = store_command(["show", "aa"])
    for words in ("stage of aaaa, 7 steps", "random weights", f"run        {tmp_path / 'run'}"):
        assert words in text
    assert "perplexity/bits_per_byte 1.5" in text
    assert "file       checkpoint/lineage.json" in text


def test_a_sound_store_is_verified(store: Store) -> None:
    put(store, "aaaa")
    assert store_command(["verify"]) == "1 entries are sound"


def test_a_flipped_byte_is_found_even_if_the_time_of_the_file_stayed(store: Store) -> None:
    entry = put(store, "aaaa")
    file = entry / "metrics.json"
    before = file.stat()
    file.write_text(file.read_text().replace("1.5", "1.6"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(OntogenyError, match=r"1 of 1 entries were damaged.*metrics.json does not"):
        store_command(["verify"])
    assert not entry.exists()


def test_old_entries_that_nothing_links_to_are_deleted(store: Store, tmp_path: Path) -> None:
    kept = put(store, "aaaa", days=40)
    used_by(store, kept, tmp_path / "run")
    gone, young = put(store, "bbbb", days=40), put(store, "cccc", days=20)
    said = store_command(["gc"])
    assert f"kept     stages aaaa: {tmp_path / 'run'} links to it" in said
    assert "deleted  stages bbbb" in said
    assert (kept.exists(), gone.exists(), young.exists()) == (True, False, True)
    assert not list((store.root / "broken").iterdir())


def test_what_would_go_can_be_looked_at_first(store: Store) -> None:
    entry = put(store, "aaaa", days=40)
    assert "would go  stages aaaa" in store_command(["gc", "dry_run=true"])
    assert entry.exists()


def test_a_run_folder_that_is_gone_keeps_nothing(store: Store, tmp_path: Path) -> None:
    entry = put(store, "aaaa", days=40)
    used_by(store, entry, tmp_path / "run")
    (tmp_path / "run" / "stages" / "s").unlink()
    store_command(["gc"])
    assert not entry.exists()


def test_also_what_is_linked_goes_if_that_is_asked_for(store: Store, tmp_path: Path) -> None:
    entry = put(store, "aaaa", days=40)
    used_by(store, entry, tmp_path / "run")
    store_command(["gc", "unused=false"])
    assert not entry.exists()


def test_what_is_being_worked_on_is_never_deleted(store: Store) -> None:
    work = store.work("stages", "aaaa")
    (work / "half").write_text("")
    aged(work, 40)
    with store.lock("stages", "aaaa"):
        assert "it is being worked on" in store_command(["gc"])
    assert work.exists()
    store_command(["gc"])
    assert not work.exists()


def test_nothing_goes_that_was_used_since_the_oldest_run_began(
    store: Store, tmp_path: Path
) -> None:
    recent, old = put(store, "aaaa"), put(store, "bbbb", days=1)
    with store.running(tmp_path / "run"):
        said = store_command(["gc", "older_than=0s"])
    assert "kept     stages aaaa: a run is going on that began before it was last used" in said
    assert (recent.exists(), old.exists()) == (True, False)
    store_command(["gc", "older_than=0s"])
    assert not recent.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gc", "older_than=soon"], "older_than is 'soon'; expected a time, as 12h, 30d or 4w"),
        (["gc", "older=3d"], "'older=3d' is none of its options"),
        (["gc", "dry_run=yes"], "dry_run is 'yes'; expected true or false"),
        (["lits"], r"no such command .did you mean 'list'"),
        (["show"], "usage: ontogeny store"),
        (["show", "zz"], "no entry of the store .* begin with 'zz'"),
    ],
)
def test_misuse_is_told(arguments: list[str], words: str, home: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        store_command(arguments)


def test_it_is_a_command(cli: Callable[..., object], store: Store) -> None:
    put(store, "aaaa")
    assert "stage of aaaa" in vars(cli("store"))["out"]
