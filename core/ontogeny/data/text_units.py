"""Plain text cut into rows: whole documents, paragraphs, lines, or blocks of paragraphs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ontogeny.data.rows import BadRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Piece = tuple[int, str | BadRow]  # the number of its first line, and its text

BLOCK = 4_000  # characters that a block grows to
LONGEST_PARAGRAPH = 8_000  # characters; a longer one is cut
SHORTEST_CUT = 2_000  # characters: a cut nearer to the start is not "near" BLOCK


def documents(lines: Iterable[Piece]) -> Iterator[Piece]:
    """Yield the whole text as one piece, exactly; one bad line makes it bad."""
    texts: list[str] = []
    for number, line in lines:
        if isinstance(line, BadRow):
            yield number, line
            return
        texts.append(line)
    text = "".join(texts)
    if text.strip():
        yield 1, text


def single_lines(lines: Iterable[Piece]) -> Iterator[Piece]:
    """Yield lines without their line ends; blank ones only separate."""
    for number, line in lines:
        if isinstance(line, BadRow):
            yield number, line
        elif line.strip():
            yield number, line.rstrip("\r\n")


def paragraphs(lines: Iterable[Piece]) -> Iterator[Piece]:
    """Yield paragraphs without the blank lines around them; a bad line ends one."""
    held: list[str] = []
    start = 0
    for number, line in lines:
        is_text = isinstance(line, str) and bool(line.strip())
        if held and not is_text:
            yield start, "".join(held).rstrip("\r\n")
            held = []
        if isinstance(line, BadRow):
            yield number, line
        elif is_text:
            start = start if held else number
            held.append(line)
    if held:
        yield start, "".join(held).rstrip("\r\n")


def blocks(lines: Iterable[Piece]) -> Iterator[Piece]:
    """Yield consecutive paragraphs gathered into pieces of up to BLOCK characters.

    Nothing is added or lost: all pieces together are the text, blank lines included. A block ends
    before the paragraph that would make it longer than BLOCK, and at a bad line.
    """
    held: list[str] = []
    start = size = 0
    for number, text in _cut_paragraphs(lines):
        if held and (isinstance(text, BadRow) or (text.strip() and size + len(text) > BLOCK)):
            yield start, "".join(held)
            held, size = [], 0
        if isinstance(text, BadRow):
            yield number, text
            continue
        start = start if held else number
        held.append(text)
        size += len(text)
    if held:
        yield start, "".join(held)


def _cut_paragraphs(lines: Iterable[Piece]) -> Iterator[Piece]:
    """Yield paragraphs with the blank lines around them; what is too long comes in parts."""
    paragraph = _Paragraph()
    for number, line in lines:
        if isinstance(line, BadRow) or (paragraph.has_ended and line.strip()):
            yield from paragraph.rest()
            paragraph = _Paragraph()
        if isinstance(line, BadRow):
            yield number, line
        else:
            paragraph.add(number, line)
            yield from paragraph.cut()
    yield from paragraph.rest()


@dataclass
class _Paragraph:
    """A paragraph while it is read."""

    start: int = 0  # line number
    texts: list[str] = field(default_factory=list)
    size: int = 0  # characters
    has_text: bool = False
    has_ended: bool = False  # only blank lines can still follow

    def add(self, number: int, line: str) -> None:
        self.start = self.start or number
        self.texts.append(line)
        self.size += len(line)
        self.has_ended = self.has_text and not line.strip()
        self.has_text = self.has_text or bool(line.strip())

    def cut(self) -> Iterator[Piece]:
        """Yield parts of about BLOCK characters while more than LONGEST_PARAGRAPH are held."""
        line_end = len(self.texts[-1]) - len(self.texts[-1].rstrip("\r\n"))
        if self.has_ended or self.size - line_end <= LONGEST_PARAGRAPH:
            return
        text, position = "".join(self.texts), 0
        while len(text) - line_end - position > LONGEST_PARAGRAPH:
            end = _border(text, position)
            yield self.start, text[position:end]
            self.start += text.count("\n", position, end)
            position = end
        self.texts, self.size = [text[position:]], len(text) - position

    def rest(self) -> Iterator[Piece]:
        if self.has_text:
            yield self.start, "".join(self.texts)


def _border(text: str, position: int) -> int:
    """Return where to cut: behind the last line end before BLOCK characters, else a space."""
    for separator in ("\n", " "):
        found = text.rfind(separator, position + SHORTEST_CUT, position + BLOCK)
        if found >= 0:
            return found + 1
    return position + BLOCK
