"""What the user names, as a list of files: a file, a glob, a folder, or a file of a package."""

from __future__ import annotations

import glob
import importlib.resources
from pathlib import Path

from ontogeny.data.formats import KNOWN, LINED, is_known, suffix
from ontogeny.data.tables import READERS
from ontogeny.errors import DataError
from ontogeny.spelling import suggestion

PACKAGE = "pkg://"
# datasets' save_to_disk puts these beside its .arrow files; they hold no rows.
DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_dict.json", "state.json"})


def resolve_files(path: str) -> list[Path]:
    """Return the files that `path` names, sorted; raise DataError when there are none.

    `path` is a file, a glob (`**` for any depth), a folder (searched to any depth for known
    suffixes) or "pkg://package.module/file" for what an installed package ships. Hidden files
    are left out, unless they are named.
    """
    if not path:
        msg = "data.path is empty; expected a file, a glob, a folder or a Hub name"
        raise DataError(msg)
    try:
        files = _found(path)
    except OSError as error:
        msg = f"{path} cannot be looked up: {error.strerror}"
        raise DataError(msg) from error
    for file in files:
        _require_known(file)
    return files


def _found(path: str) -> list[Path]:
    local = _in_package(path) if path.startswith(PACKAGE) else Path(path).expanduser()
    if local.is_dir():
        return _in_folder(local)
    files = [local] if local.exists() else _matching(local)
    if not files:
        what = "matches no file" if glob.has_magic(str(local)) else "does not exist"
        expected = "expected a file, a glob, a folder or a Hub name"
        msg = f"{path} {what}{nearest_name(local)}; {expected}"
        raise DataError(msg)
    return files


def nearest_name(path: Path) -> str:
    """Return " (did you mean 'x'?)" for the first part of a path that does not exist, or ""."""
    folder, missing = path.parent, path.name
    while not folder.is_dir():
        folder, missing = folder.parent, folder.name
    names = [file.name for file in sorted(folder.iterdir())]
    if glob.has_magic(missing):
        names += [f"*{Path(name).suffix}" for name in names]
    return suggestion(missing, names)


def _in_package(path: str) -> Path:
    package, _, inside = path.removeprefix(PACKAGE).partition("/")
    try:
        resource = importlib.resources.files(package).joinpath(inside)
    except (ImportError, TypeError, ValueError) as error:
        msg = f"{path}: no package {package!r} is installed; expected pkg://package.module/file"
        raise DataError(msg) from error
    if not isinstance(resource, Path):
        msg = f"{path}: {package} is installed as an archive; install it as a folder"
        raise DataError(msg)
    return resource


def _in_folder(folder: Path) -> list[Path]:
    found = _matching(Path(glob.escape(str(folder))) / "**" / "*")
    others = DESCRIPTIONS if any(file.suffix == ".arrow" for file in found) else ()
    files = [file for file in found if is_known(file) and file.name not in others]
    if not files:
        msg = f"{folder} holds no file of a known kind; expected {KNOWN}"
        raise DataError(msg)
    return files


def _matching(pattern: Path) -> list[Path]:
    # pathlib's own glob finds hidden files, and follows links or not by Python version.
    found = map(Path, glob.glob(str(pattern), recursive=True))  # noqa: PTH207
    return sorted(file for file in found if file.is_file())


def _require_known(file: Path) -> None:
    if not is_known(file):
        near = suggestion(suffix(file), (*LINED, *READERS))
        msg = f"{file}: unknown suffix {file.suffix!r}{near}; expected {KNOWN}"
        raise DataError(msg)
