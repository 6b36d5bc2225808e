from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ontogeny.data.reading import read_rows

if TYPE_CHECKING:
    from pathlib import Path

POEM = "\n \nfirst\n  second\n\n\t\nthird  \r\n\r\nfourth"


def rows(path: Path, text: str | bytes, unit: str, **options: str) -> list[tuple[int, object]]:
    """Return (line, text) of every row."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    records = read_rows(
        str(path), columns={}, required=[("text",)], text_unit=unit, **options, rejected=None
    )
    return [(record.line, record.row["text"]) for record in records]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.txt"


def test_a_document_is_the_exact_text_of_a_file(file: Path) -> None:
    assert rows(file, POEM, "document") == [(1, POEM)]


def test_paragraphs_are_separated_by_blank_lines(file: Path) -> None:
    assert rows(file, POEM, "paragraph") == [(3, "first\n  second"), (7, "third  "), (9, "fourth")]


def test_lines_lose_their_ends_and_blank_ones_go(file: Path) -> None:
    expected = [(3, "first"), (4, "  second"), (7, "third  "), (9, "fourth")]
    assert rows(file, POEM, "line") == expected


def test_a_short_text_is_one_block_exactly(file: Path) -> None:
    assert rows(file, POEM, "block") == [(1, POEM)]


def test_a_block_ends_before_the_paragraph_that_would_exceed_4000_characters(file: Path) -> None:
    paragraph = "x" * 998 + "\n\n"
    assert rows(file, paragraph * 9, "block") == [
        (1, paragraph * 4),
        (9, paragraph * 4),
        (17, paragraph),
    ]
    assert len(rows(file, paragraph * 3 + "x" * 999 + "\n\n", "block")) == 2


def test_a_paragraph_of_up_to_8000_characters_stays_whole(file: Path) -> None:
    long = "x" * 8_000 + "\n\n"
    assert rows(file, "a\n\n" + long + "b\n", "block") == [(1, "a\n\n"), (3, long), (5, "b\n")]


def test_a_longer_paragraph_is_cut_at_the_line_end_before_4000(file: Path) -> None:
    line = "x" * 998 + " \n"  # 1,000 characters
    pieces = rows(file, line * 9, "block")
    assert pieces == [(1, line * 4), (5, line * 5)]


def test_a_paragraph_of_one_line_is_cut_at_a_space(file: Path) -> None:
    word = "x" * 99 + " "
    assert rows(file, word * 81, "block") == [(1, word * 40), (1, word * 41)]


def test_a_word_without_end_is_cut_at_4000(file: Path) -> None:
    sizes = [len(str(text)) for _, text in rows(file, "字" * 20_001, "block")]
    assert sizes == [4_000, 4_000, 4_000, 4_000, 4_001]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_all_blocks_together_are_the_text(file: Path, end: str) -> None:
    lines = [("word " * (7 * n % 60)).strip() if n % 11 else "" for n in range(2_000)]
    lines[500] = "y" * 30_000 + " " * 9_000
    text = end * 3 + end.join(lines) + end * 2
    blocks = rows(file, text, "block")
    assert "".join(str(block) for _, block in blocks) == text
    assert len(blocks) > 20
    for line, block in blocks:
        before = "".join(str(text) for other, text in blocks if other < line)
        assert line == before.count("\n") + 1 or str(block).strip("y ") == ""


def test_a_text_of_blanks_has_no_rows(file: Path) -> None:
    for unit in ("document", "paragraph", "line", "block"):
        with pytest.raises(Exception, match="has no rows"):
            rows(file, " \n\n\t\n", unit)


def test_a_bad_line_costs_no_more_than_itself(file: Path) -> None:
    text = b"a\n\nb\nc \xff\nd\n\n\ne\n"
    skip = {"on_error": "skip"}
    assert rows(file, text, "line", **skip) == [(1, "a"), (3, "b"), (5, "d"), (8, "e")]
    assert rows(file, text, "paragraph", **skip) == [(1, "a"), (3, "b"), (5, "d"), (8, "e")]
    assert rows(file, text, "block", **skip) == [(1, "a\n\nb\n"), (5, "d\n\n\ne\n")]


def test_a_bad_line_makes_a_document_bad(file: Path) -> None:
    (file.parent / "b.txt").write_text("good")
    file.write_bytes(b"a\nb \xff\n")
    seen: list[str] = []
    records = read_rows(
        str(file.parent),
        columns={},
        required=[("text",)],
        text_unit="document",
        on_error="skip",
        rejected=lambda where, reason: seen.append(f"{where}: {reason}"),
    )
    assert [record.row for record in records] == [{"text": "good"}]
    assert seen == [f"{file}:2: invalid UTF-8: byte 0xff at byte offset 4"]
