"""Turn Jane Austen's novels, as the R package janeaustenr stores them, into rows of prose."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = dict[str, str]

MEMBER = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
# How many characters of each novel, from its beginning. The test novel is not in the training text.
TRAIN = {"Pride and Prejudice": 420_000, "Sense and Sensibility": 420_000, "Emma": 420_000}
TEST = {"Persuasion": 150_000}
ROW_CHARACTERS = 2_500  # aimed at: rows end where paragraphs do
CHAPTER = re.compile(r"\n(?:volume \w+\s+)?chapter \w+\n", re.IGNORECASE)
NO_PROSE = re.compile(r"finis|the end|[* ]+|\[.*\]", re.IGNORECASE | re.DOTALL)


def rows(database: bytes) -> list[Row]:
    """Return rows of `text`, `source` (the novel) and `split`."""
    novels = read_novels(database)
    return [
        {"text": text, "source": title, "split": split}
        for split, titles in {"train": TRAIN, "test": TEST}.items()
        for title, characters in titles.items()
        for text in beginning(novels[title.upper()], characters)
    ]


def read_novels(database: bytes) -> dict[str, str]:
    """Return title -> text from R's lazy-load database: (4 bytes of size, zlib stream) repeated."""
    novels = {}
    while database:
        stream = zlib.decompressobj()
        title, *lines = read_strings(stream.decompress(database[4:]))
        novels[title.upper()] = "\n".join(line.strip() for line in lines)
        database = stream.unused_data
    return novels


def read_strings(vector: bytes) -> Iterator[str]:
    """Yield the strings of a character vector as R serialises it: XDR ("R Internals", 1.8)."""
    position = 31  # behind the header (23 bytes), the vector's flags and its length
    for _ in range(int.from_bytes(vector[27:31])):
        start = position + 8  # behind the string's flags and its size
        position = start + int.from_bytes(vector[position + 4 : start])
        yield vector[start:position].decode()


def beginning(novel: str, characters: int) -> Iterator[str]:
    """Yield rows until they hold so many characters; no row crosses the border of a chapter."""
    texts = (text for chapter in CHAPTER.split(novel)[1:] for text in cut(paragraphs(chapter)))
    for text in texts:
        if characters <= 0:
            return
        characters -= len(text)
        yield text


def paragraphs(chapter: str) -> list[str]:
    """Undo the hard line wraps; drop ornaments, editors' notes and the marks for italics."""
    blocks = (block.strip() for block in re.split(r"\n{2,}", chapter))
    prose = (block for block in blocks if block and not NO_PROSE.fullmatch(block))
    return [" ".join(re.sub(r"--\n", "--", block).replace("_", "").split()) for block in prose]


def cut(parts: list[str]) -> list[str]:
    """Join the paragraphs of a chapter into rows of about equal size."""
    size = sum(map(len, parts))
    count = max(1, round(size / ROW_CHARACTERS))
    texts, position = defaultdict[int, list[str]](list), 0
    for part in parts:
        middle = position + len(part) // 2
        texts[middle * count // size].append(part)
        position += len(part)
    return ["\n\n".join(text) for text in texts.values()]
