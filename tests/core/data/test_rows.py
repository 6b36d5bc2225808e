from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ontogeny.data.reading import Record, read_rows
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TEXT = [("text",)]
TURNS = [("messages",), ("prompt", "completion")]
PAIRS = [("prompt", "chosen", "rejected"), ("chosen", "rejected")]
USER = {"role": "user", "content": "a"}
REMEDY = "; mend the row or set data.on_error=skip"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def read(
    file: Path,
    *rows: object,
    required: Sequence[Sequence[str]] = TEXT,
    columns: Mapping[str, str] | None = None,
) -> list[Record]:
    """Read `rows`, each an object or a line as it stands."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    file.write_bytes(b"\n".join(lines))
    return list(read_rows(str(file), columns=columns or {}, required=required))


def reason(
    file: Path,
    row: object,
    required: Sequence[Sequence[str]] = TEXT,
    columns: Mapping[str, str] | None = None,
) -> str:
    """Return why a row is bad, without its place and the remedy."""
    with pytest.raises(DataError) as caught:
        read(file, row, required=required, columns=columns)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}:1: ")
    assert message.endswith(REMEDY)
    return message.removeprefix(f"{file}:1: ").removesuffix(REMEDY)


def test_columns_get_their_canonical_names(file: Path) -> None:
    names = {"prompt": "question", "completion": "answer"}
    row = {"question": "a", "answer": "b", "id": 1}
    (record,) = read(file, row, required=TURNS, columns=names)
    assert record.row == {"prompt": "a", "completion": "b", "id": 1}


def test_columns_can_swap_their_names(file: Path) -> None:
    names = {"chosen": "rejected", "rejected": "chosen"}
    (record,) = read(file, {"chosen": "bad", "rejected": "good"}, required=PAIRS, columns=names)
    assert record.row == {"chosen": "good", "rejected": "bad"}


def test_a_column_under_another_name_hides_the_canonical_one(file: Path) -> None:
    (record,) = read(file, {"text": "title", "body": "long"}, columns={"text": "body"})
    assert record.row == {"text": "long"}
    assert reason(file, {"text": "title"}, columns={"text": "body"}).startswith(
        "no column 'body'; expected body, the columns are text"
    )


def test_a_missing_column_is_named_with_those_there_and_the_option(file: Path) -> None:
    assert reason(file, {"body": "a", "id": 1}) == (
        "no column 'text'; expected text, the columns are body, id;"
        " name yours with data.text_column=..."
    )


def test_the_nearest_column_is_suggested(file: Path) -> None:
    assert reason(file, {"prompt": "a", "completions": "b"}, TURNS) == (
        "no column 'completion' (did you mean 'completions'?);"
        " expected messages or prompt + completion, the columns are prompt, completions;"
        " name yours with data.completion_column=..."
    )


def test_of_many_columns_only_some_are_listed(file: Path) -> None:
    row = {f"c{number}": 0 for number in range(99)}
    assert "the columns are c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, …;" in reason(
        file, row
    )


def test_any_alternative_will_do(file: Path) -> None:
    rows = [{"messages": [USER]}, {"prompt": "a", "completion": "b"}]
    assert [record.row for record in read(file, *rows, required=TURNS)] == rows


def test_null_counts_as_absent(file: Path) -> None:
    row = {"messages": None, "prompt": "a", "completion": "b", "source": None}
    (record,) = read(file, row, required=TURNS)
    assert record.row == {"prompt": "a", "completion": "b"}


def test_nothing_required_lets_everything_through(file: Path) -> None:
    assert read(file, {"anything": [1]}, required=[])[0].row == {"anything": [1]}


@pytest.mark.parametrize(
    ("value", "described"),
    [(5, "5"), (2.5, "2.5"), (True, "true"), ([], "[]"), (["a"], "a list"), ({}, "an object")],
)
def test_text_must_be_text(file: Path, value: object, described: str) -> None:
    assert reason(file, {"text": value}) == f"text is {described}; expected text"


def test_null_is_no_text(file: Path) -> None:
    assert reason(file, {"text": None}) == "text is null"


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_empty_text_is_bad(file: Path, text: str) -> None:
    assert reason(file, {"text": text}) == "empty text"


def test_a_number_is_called_by_the_name_the_user_knows(file: Path) -> None:
    assert reason(file, {"body": 5}, columns={"text": "body"}) == "body is 5; expected text"


def test_only_the_alternative_in_use_is_checked(file: Path) -> None:
    row = {"messages": [USER], "prompt": 17}
    assert read(file, row, required=TURNS)[0].row == row
    assert reason(file, {"prompt": 17, "chosen": "a", "rejected": "b"}, PAIRS) == (
        "prompt is 17; expected text"
    )


def test_prompts_and_answers_may_be_messages(file: Path) -> None:
    row = {"prompt": [USER], "chosen": [USER], "rejected": "b"}
    assert read(file, row, required=PAIRS)[0].row == row


def test_a_turn_that_only_calls_tools_needs_no_content(file: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"name": "f"}]}
    assert read(file, {"messages": [USER, call]}, required=TURNS)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("a", "messages is text; expected a list of messages"),
        ([], "messages is []; expected a list of messages"),
        (["a"], "messages[0] is text; expected an object with role and content"),
        ([USER, {"from": "a"}], "messages[1].role is null; expected text"),
        ([{"role": "user"}], "messages[0].content is null; expected text"),
        ([{"role": "user", "content": ["a"]}], "messages[0].content is a list; expected text"),
    ],
)
def test_messages_must_have_role_and_content(file: Path, messages: object, expected: str) -> None:
    assert reason(file, {"messages": messages}, TURNS) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "a"', "not JSON: Expecting ',' delimiter at column 13"),
        (b'{"text": "a"} x', "not JSON: Extra data at column 15"),
        (b'{"text": "a", "text": "b"}', "not JSON: the key 'text' stands twice in one object"),
        (b"[" * 200_000, "not JSON: nested too deep"),
        (b'["text"]', 'not a JSON object but ["text"]'),
        (b"null", "not a JSON object but null"),
        (b'{"text": "\xff"}', "invalid UTF-8: byte 0xff at byte offset 10"),
        (b'{"text": "a\0"}', "NUL byte at byte offset 11"),
        (b'{"text": "a\\u0000"}', "text holds a NUL character"),
        (b'{"text": "a\\ud800"}', "text holds a lone surrogate, which is no character"),
        (
            b'{"text": "a", "meta": {"tags": ["\\udfff"]}}',
            "meta holds a lone surrogate, which is no character",
        ),
    ],
)
def test_a_poisoned_line_is_a_bad_row(file: Path, line: bytes, expected: str) -> None:
    assert reason(file, line) == expected


def test_a_surrogate_pair_is_a_character(file: Path) -> None:
    assert read(file, b'{"text": "\\ud83d\\ude00"}')[0].row == {"text": "😀"}


def test_labels_and_tokens_may_be_of_any_type(file: Path) -> None:
    row = {"tokens": ["a", "b"], "tags": [0, 1]}
    assert read(file, row, required=[("tokens", "tags")])[0].row == row
    assert reason(file, {"text": "a", "label": None}, [("text", "label")]) == "label is null"
