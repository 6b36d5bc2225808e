"""The store: finished results under the digest of everything that made them."""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.digest import DigestCache, digest_json
from ontogeny.errors import ConfigError
from ontogeny.folders import (
    find_damage,
    move_folder,
    remove_folder,
    write_folder,
    write_manifest,
    write_text,
)
from ontogeny.leftovers import sweep_stale
from ontogeny.lock import POLL_SECONDS, Lock, holder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["POLL_SECONDS", "Store", "home"]
WORK, BROKEN = "work", "broken"  # folders of the root beside those of the kinds
LOCKS, RUNNING, RUNS = "locks", "running", "runs"
_log = logging.getLogger("ontogeny.store")


def home() -> Path:
    """Return the store's folder: `ONTOGENY_HOME`, or `~/.cache/ontogeny`."""
    return Path(os.environ.get("ONTOGENY_HOME") or "~/.cache/ontogeny").expanduser().absolute()


class Store:
    """Complete entries in `root/<kind>/<key>`, unfinished work in `root/work`, locks beside.

    Every method that writes raises ConfigError if the root cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read = DigestCache(None)  # digests of files that this process has read itself
        self._known = DigestCache(root / "digests")

    def get(
        self, kind: str, key: str, *, verify: bool = False, cache: DigestCache | None = None
    ) -> Path | None:
        """Return the folder of a complete entry, else None.

        Presence and sizes of its files are checked, with `verify` their digests too: those that
        the cache does not know, by default what this process has not read. A broken entry is moved
        to `root/broken`, with a warning, and counts as absent.
        """
        entry = self.root / kind / key
        if not entry.exists():
            return None
        damage = find_damage(entry, digests=verify, cache=cache or self.read)
        if damage is None:
            with suppress(OSError):  # of somebody else's, perhaps
                os.utime(entry)  # when it was last of use
            return entry
        self._set_aside(entry, damage)
        return None

    def work(self, kind: str, key: str) -> Path:
        """Return the folder for an entry's unfinished work; it outlives the process.

        What processes that were killed left half written in it is swept.
        """
        folder = self._made(self.root / WORK / f"{kind}-{key}")
        for place, _, _ in os.walk(folder):
            sweep_stale(Path(place))
        return folder

    def publish(self, kind: str, key: str, folder: Path, **facts: object) -> Path:
        """Turn a finished folder into the entry, all at once, and return the entry.

        The folder must lie on the store's file system, as those of `work` do; it is gone
        afterwards. An entry that is complete already stays as it is.
        """
        entry = self.get(kind, key)
        if entry is not None:
            remove_folder(folder)
            return entry
        write_manifest(folder, **facts)
        entry = self._made(self.root / kind) / key
        move_folder(folder, entry)
        return entry

    def create(
        self,
        kind: str,
        key: str,
        build: Callable[[Path], None],
        waiting: Callable[[], None] | None = None,
    ) -> Path:
        """Return the entry, after `build` has filled a fresh folder for it if there is none yet.

        Only one process builds; the others wait for it. For work that is not worth resuming.
        """
        entry = self.get(kind, key, verify=True, cache=self._known)
        if entry is not None:
            return entry
        with self.lock(kind, key, waiting):
            return self.get(kind, key) or self._built(kind, key, build)

    @contextmanager
    def lock(
        self, kind: str, key: str, waiting: Callable[[], None] | None = None
    ) -> Iterator[Lock]:
        """Hold the entry's lock among all processes; call `waiting` once if another has it.

        Look again with `get` when it is yours: the other one may have published. It is free as
        soon as its holder ends, however that comes (see `ontogeny.lock` for other machines).
        """
        self._made(self.root / LOCKS)
        lock = Lock(self.lock_path(kind, key))
        lock.acquire(waiting)
        try:
            yield lock
        finally:
            lock.release()

    def holder(self, kind: str, key: str) -> str:
        """Return who has an entry's lock: host and process, or empty."""
        return holder(self.lock_path(kind, key))

    def lock_path(self, kind: str, key: str) -> Path:
        """Return where the lock of an entry lies, without its endings."""
        return self.root / LOCKS / f"{kind}-{key}"

    def aside(self, folder: Path) -> Path:
        """Rename a folder of the store to a name that nobody looks for; to be deleted."""
        aside = self._made(self.root / BROKEN) / f"deleted-{secrets.token_hex(8)}"
        folder.rename(aside)
        return aside

    @contextmanager
    def running(self, run: Path) -> Iterator[None]:
        """Tell whoever tidies the store that a run is going on, and where its folder lies."""
        name = digest_json(str(run.absolute()))
        write_text(self._made(self.root / RUNS) / name, f"{run.absolute()}\n")
        lock = Lock(self._made(self.root / RUNNING) / f"{name}-{secrets.token_hex(4)}")
        lock.acquire()
        try:
            yield
        finally:
            lock.release()
            lock.forget()

    def _built(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        entry = self._made(self.root / kind) / key
        sweep_stale(entry.parent)
        with write_folder(entry) as folder:
            build(folder)
            write_manifest(folder)
        return entry

    def _set_aside(self, entry: Path, damage: str) -> None:
        name = f"{entry.parent.name}-{entry.name}-{secrets.token_hex(4)}"
        aside = self._made(self.root / BROKEN) / name
        with suppress(FileNotFoundError):  # another process may have done it
            entry.rename(aside)
            _log.warning("%s is damaged (%s); moved to %s, it is made anew", entry, damage, aside)

    def _made(self, folder: Path) -> Path:
        """Return a folder of the store after making it; raises ConfigError if that fails."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error.strerror or str(error)) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            reason = "no permission"
            raise self._not_writable(reason)
        return folder

    def _not_writable(self, reason: str) -> ConfigError:
        return ConfigError(
            f"the store {self.root} cannot be written ({reason}); set the environment variable "
            "ONTOGENY_HOME to a folder that you may write"
        )
