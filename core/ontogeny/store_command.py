"""`ontogeny store`: what is in the store, how large it is, whether it is sound, and tidying it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ontogeny.disk_space import folder_size
from ontogeny.errors import ConfigError, OntogenyError
from ontogeny.folders import find_damage
from ontogeny.leftovers import remove_tree
from ontogeny.lock import Lock, held_since, is_held
from ontogeny.spelling import suggestion
from ontogeny.store import BROKEN, LOCKS, RUNNING, RUNS, WORK, Store, home

USAGE = """\
usage: ontogeny store                                     what is in the store
       ontogeny store size                                how large it is, by kind
       ontogeny store show KEY                            one entry; the first digits of its key do
       ontogeny store verify [KEY]                        read everything and compare digests
       ontogeny store gc [older_than=30d] [unused=true] [dry_run=true]
           delete what was of no use for so long; unused=false: also what run folders link to"""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
OLD = "30d"
OTHER = frozenset({LOCKS, RUNNING, RUNS})  # folders without entries
CLOCKS = 60.0  # seconds by which the clocks of machines may differ
DIGITS = 12  # of a key, on screen


@dataclass(frozen=True)
class Entry:
    """A folder of the store: a finished entry, unfinished work, or what was found damaged."""

    kind: str  # stages, examples …; work; broken
    key: str
    folder: Path
    runs: tuple[Path, ...]  # run folders that link to it

    @property
    def idle(self) -> float:
        """Seconds since it was last of use."""
        return max(0.0, time.time() - self.used)

    @property
    def used(self) -> float:
        """When it was last of use, or worked on."""
        inside = list(self.folder.rglob("*")) if self.kind == WORK else []
        return float(max(path.lstat().st_mtime for path in (self.folder, *inside)))

    @property
    def what(self) -> str:
        """What a person would call it: the stage and its steps."""
        lineage = _read(self.folder / "checkpoint" / "lineage.json")
        if lineage:
            return f"{lineage.get('stage')}, {lineage.get('steps')} steps"
        metrics = _read(self.folder / "metrics.json")
        return ", ".join(metrics)


def store_command(arguments: Sequence[str]) -> str:
    """Carry out `ontogeny store ...`; return what is to be printed."""
    name, *rest = arguments or ["list"]
    store = Store(home())
    if name == "gc":
        return _collect(store, _options(rest, {"older_than": OLD, "unused": "true"}))
    commands: dict[str, Callable[..., str]] = {
        "list": _list,
        "size": _size,
        "show": _show,
        "verify": _verify,
    }
    if name not in commands:
        raise ConfigError(f"ontogeny store {name}: {_no_command(name, commands)}\n{USAGE}")
    keys = {"show": (1, 1), "verify": (0, 1)}.get(name, (0, 0))
    if not keys[0] <= len(rest) <= keys[1]:
        raise ConfigError(USAGE)
    return commands[name](store, *rest)


def entries(store: Store) -> list[Entry]:
    """Return everything in the store, by kind, what was used last first."""
    linked = _linked(store)
    found = [
        Entry(kind.name, folder.name, folder, tuple(linked.get(folder.resolve(), ())))
        for kind in _folders(store.root)
        if kind.name not in OTHER
        for folder in _folders(kind)
        if kind.name in {WORK, BROKEN} or (folder / "MANIFEST.json").exists()
    ]
    return sorted(found, key=lambda entry: (entry.kind, entry.idle))


def _list(store: Store) -> str:
    lines = [f"store {store.root}"]
    for entry in entries(store):
        used = f"{len(entry.runs)} runs" if entry.runs else "no run"
        lines.append(
            f"  {entry.kind:<12}{_short(entry):<{DIGITS + 2}}{_bytes(_size_of(entry)):>9}  "
            f"{_duration(entry.idle):>5} ago  {used:<8}  {entry.what}".rstrip()
        )
    return "\n".join(lines if len(lines) > 1 else [*lines, "  empty"])


def _size(store: Store) -> str:
    kinds: dict[str, list[int]] = {}
    for folder in _folders(store.root):
        own = [_size_of(entry) for entry in entries(store) if entry.kind == folder.name]
        kinds[folder.name] = own or [folder_size(folder)]
    lines = [f"store {store.root}"]
    lines += [
        f"  {kind:<12}{_bytes(sum(sizes)):>9}  {len(sizes)} entries"
        for kind, sizes in kinds.items()
        if kind not in OTHER
    ]
    return "\n".join([*lines, f"  {'all':<12}{_bytes(sum(map(sum, kinds.values()))):>9}"])


def _show(store: Store, key: str) -> str:
    entry = _find(store, key)
    lines = [
        f"{entry.kind} {entry.key}",
        f"  folder     {entry.folder}",
        f"  size       {_bytes(_size_of(entry))}",
        f"  last used  {_duration(entry.idle)} ago",
        f"  what       {entry.what or entry.kind}",
    ]
    lineage = _read(entry.folder / "checkpoint" / "lineage.json")
    if lineage:
        lines.append(f"  parent     {lineage.get('parent') or 'none: random weights'}")
    lines += [f"  run        {run}" for run in entry.runs]
    if not entry.runs:
        lines.append("  run        none that is there links to it")
    for evaluators in _read(entry.folder / "metrics.json").values():
        for evaluator, metrics in cast(
            "dict[str, dict[str, dict[str, float]]]", evaluators
        ).items():
            for name, metric in list(metrics.items())[:10]:
                lines.append(f"  metric     {evaluator}/{name} {metric['value']:.4g}")
    files = sorted(path for path in entry.folder.rglob("*") if path.is_file())
    lines += [f"  file       {path.relative_to(entry.folder)}" for path in files]
    return "\n".join(lines)


def _verify(store: Store, key: str | None = None) -> str:
    """Read every file; what is damaged is moved aside, and raises OntogenyError at the end."""
    chosen = entries(store) if key is None else [_find(store, key)]
    sound, damaged = 0, []
    for entry in chosen:
        if entry.kind in {WORK, BROKEN}:
            continue
        damage = find_damage(entry.folder)
        if damage is None:
            sound += 1
        else:
            store.get(entry.kind, entry.key, verify=True)  # moves it aside
            damaged.append(f"{entry.kind} {_short(entry)}: {damage}")
    if damaged:
        raise OntogenyError(
            f"{len(damaged)} of {sound + len(damaged)} entries were damaged, are moved to "
            f"{store.root / BROKEN} and will be made anew when they are needed: "
            f"{'; '.join(damaged)}"
        )
    return f"{sound} entries are sound"


def _collect(store: Store, options: dict[str, str]) -> str:
    """Delete what was not used for some time, and nothing that a run needs or works on."""
    limit, unused = _seconds(options["older_than"]), _truth("unused", options["unused"])
    dry = _truth("dry_run", options.get("dry_run", "false"))
    began = _oldest_run(store)
    lines, freed, kept = [], 0, 0
    for entry in entries(store):
        if entry.idle < limit:
            continue
        if (why := _needed(store, entry, unused=unused, began=began)) is not None:
            lines.append(f"  kept     {entry.kind} {_short(entry)}: {why}")
            kept += 1
            continue
        size = _size_of(entry)
        if dry or _delete(store, entry):
            freed += size
            lines.append(f"  {'would go' if dry else 'deleted'}  {entry.kind} {_short(entry)}")
    if not dry:
        _forget_runs(store)
    said = "would be freed" if dry else "freed"
    return "\n".join([*lines, f"{_bytes(freed)} {said}, {kept} of that age kept"])


def _needed(store: Store, entry: Entry, *, unused: bool, began: float | None) -> str | None:
    """Return why an entry must stay; None: it may go."""
    if unused and entry.runs:
        return f"{entry.runs[0]} links to it"
    if began is not None and entry.used >= began:
        return "a run is going on that began before it was last used"
    if entry.kind != BROKEN and is_held(store.lock_path(*_locked_as(entry))):
        return "it is being worked on"
    return None


def _locked_as(entry: Entry) -> tuple[str, str]:
    """Return kind and key under which an entry, or the work on it, is locked."""
    if entry.kind != WORK:
        return entry.kind, entry.key
    kind, _, key = entry.key.partition("-")
    return kind, key.partition(".")[0]


def _delete(store: Store, entry: Entry) -> bool:
    """Delete an entry under its lock; renamed first, so that nobody finds half of it."""
    if entry.kind == BROKEN:
        remove_tree(entry.folder)
        return True
    lock = Lock(store.lock_path(*_locked_as(entry)))
    if not lock.try_acquire():  # since we looked
        return False
    try:
        aside = store.aside(entry.folder)
    finally:
        lock.release()
    remove_tree(aside)
    return True


def _oldest_run(store: Store) -> float | None:
    """Return when the oldest of the runs began that are going on; forget those that are not."""
    began = []
    for lease in (store.root / RUNNING).glob("*.lock"):
        lock = lease.with_suffix("")
        if is_held(lock):
            began.append(held_since(lock) - CLOCKS)
        else:
            for file in lock.parent.glob(f"{lock.name}.*"):
                file.unlink(missing_ok=True)
    return min(began, default=None)


def _linked(store: Store) -> dict[Path, list[Path]]:
    """Return the run folders that link to each entry."""
    found: dict[Path, list[Path]] = {}
    for run in _runs(store):
        for link in (run / "stages").glob("*"):
            if link.is_symlink():
                found.setdefault(link.resolve(), []).append(run)
    return found


def _runs(store: Store) -> Iterator[Path]:
    folder = store.root / RUNS
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        yield Path(file.read_text().rstrip("\n"))


def _forget_runs(store: Store) -> None:
    """Forget the run folders that are gone."""
    folder = store.root / RUNS
    for file in list(folder.iterdir()) if folder.is_dir() else []:
        if not Path(file.read_text().rstrip("\n")).exists():
            file.unlink(missing_ok=True)


def _find(store: Store, key: str) -> Entry:
    found = [entry for entry in entries(store) if entry.key.startswith(key)]
    if len(found) != 1:
        what = "no entry" if not found else f"{len(found)} entries"
        raise ConfigError(
            f"{what} of the store {store.root} begin with {key!r}; see ontogeny store"
        )
    return found[0]


def _options(arguments: Sequence[str], defaults: dict[str, str]) -> dict[str, str]:
    known = (*defaults, "dry_run")
    options = dict(defaults)
    for item in arguments:
        key, equals, value = item.partition("=")
        if key not in known or not equals:
            raise ConfigError(f"ontogeny store gc: {item!r} is none of its options\n{USAGE}")
        options[key] = value
    return options


def _seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.replace(".", "", 1).isdigit():
        raise ConfigError(f"older_than is {text!r}; expected a time, as 12h, 30d or 4w")
    return float(number) * UNITS[unit]


def _truth(key: str, text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ConfigError(f"{key} is {text!r}; expected true or false")
    return text.lower() == "true"


def _no_command(name: str, commands: Iterable[str]) -> str:
    return f"no such command{suggestion(name, [*commands, 'gc'])}"


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _short(entry: Entry) -> str:
    return entry.key[:DIGITS] if entry.kind not in {WORK, BROKEN} else entry.key[: DIGITS + 7]


def _size_of(entry: Entry) -> int:
    return folder_size(entry.folder)


def _bytes(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _duration(seconds: float) -> str:
    for unit in ("w", "d", "h", "m"):
        if seconds >= 2 * UNITS[unit]:
            return f"{seconds // UNITS[unit]:.0f}{unit}"
    return f"{seconds:.0f}s"


def _read(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
