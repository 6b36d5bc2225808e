"""Build the text that ships in `ontogeny_plugins.demo` from two Debian packages.

    python examples/data/build_demo.py            # rewrites the shipped files
    python examples/data/build_demo.py /tmp/demo  # writes them elsewhere

Needs `apt-get` and `dpkg-deb` (Debian or Ubuntu, after `apt-get update`) and nothing beyond the
standard library. The general text is Jane Austen (`austen.py`); the specialised domain is a
dictionary of the natural world, made of WordNet's nouns (`natural_world.py`). Every run writes the
same rows, and the same bytes wherever Python's zlib is the original one.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import austen
import natural_world

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = dict[str, str]

SHIPPED = Path(__file__).resolve().parents[2] / "plugins/ontogeny_plugins/demo/data"
SUFFIXES = {"train": ".jsonl.gz", "test": "_test.jsonl.gz"}


def main(folder: Path = SHIPPED) -> None:
    """Write every file into `folder` and print rows, raw bytes and bytes on disk of each."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        novels = fetch("r-cran-janeaustenr", austen.MEMBER, Path(scratch))
        nouns = fetch("wordnet-base", natural_world.MEMBER, Path(scratch))
    tables = {"general": austen.rows(novels), **natural_world.tables(nouns)}
    for name, rows in tables.items():
        for split, suffix in SUFFIXES.items():
            write(folder / f"{name}{suffix}", (row for row in rows if row["split"] == split))


def fetch(package: str, member: str, scratch: Path) -> bytes:
    """Download a Debian package and return the content of one of its files."""
    folder = scratch / package
    folder.mkdir()
    run(["apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", package], folder)
    run(["dpkg-deb", "-x", *(path.name for path in folder.glob("*.deb")), "."], folder)
    return (folder / member).read_bytes()


def run(command: list[str], folder: Path) -> None:
    """Run a package client; its own message explains a failure."""
    subprocess.run(command, cwd=folder, check=True)


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write distinct rows as gzipped JSON lines that depend on nothing but the rows."""
    lines = dict.fromkeys(json.dumps(row, ensure_ascii=False) for row in rows)
    raw = unicodedata.normalize("NFC", "".join(f"{line}\n" for line in lines)).encode()
    # no file name and no time in the header
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(raw)
    sys.stdout.write(f"{path.name}\t{len(lines)}\t{len(raw)}\t{path.stat().st_size}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
