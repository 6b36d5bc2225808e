from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from ontogeny.data.reading import resolve_files
from ontogeny.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of data among other things."""
    folder = tmp_path / "corpus"
    for name in (
        "b.jsonl",
        "a.txt",
        "picture.png",
        "sub/c.JSONL.GZ",
        "sub/deep/d.md",
        ".hidden.txt",
        ".git/e.txt",
        "saved/state.json",
        "saved/dataset_info.json",
        "saved/data-00000-of-00001.arrow",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def names(folder: Path, path: str) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in resolve_files(path)]


def error_of(path: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        resolve_files(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_itself(folder: Path) -> None:
    assert names(folder, f"{folder}/a.txt") == ["a.txt"]


def test_a_hidden_file_can_be_named(folder: Path) -> None:
    assert names(folder, f"{folder}/.hidden.txt") == [".hidden.txt"]


def test_a_folder_is_searched_to_any_depth_and_sorted(folder: Path) -> None:
    assert names(folder, str(folder)) == [
        "a.txt",
        "b.jsonl",
        "saved/data-00000-of-00001.arrow",
        "sub/c.JSONL.GZ",
        "sub/deep/d.md",
    ]


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path: Path) -> None:
    odd = tmp_path / "data [v1]"
    odd.mkdir()
    (odd / "a*.txt").write_text("x")
    (odd / "ab.txt").write_text("x")
    assert names(odd, str(odd)) == ["a*.txt", "ab.txt"]
    assert names(odd, f"{odd}/a*.txt") == ["a*.txt"]


def test_a_glob_matches_in_one_folder_or_in_all_below(folder: Path) -> None:
    assert names(folder, f"{folder}/*.txt") == ["a.txt"]
    assert names(folder, f"{folder}/**/*.md") == ["sub/deep/d.md"]
    assert names(folder, f"{folder}/[ab].*") == ["a.txt", "b.jsonl"]


def test_a_glob_that_matches_an_unknown_suffix_is_an_error(folder: Path) -> None:
    assert f"{folder}/picture.png: unknown suffix '.png'" in error_of(folder / "*.*")


def test_the_home_folder_can_be_written_as_a_tilde(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert names(folder, "~/a.txt") == ["a.txt"]


def test_a_package_can_ship_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    package = tmp_path / "shipping" / "data"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "rows.jsonl").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    request.addfinalizer(lambda: [sys.modules.pop(n, None) for n in ("shipping", "shipping.data")])
    assert names(package, "pkg://shipping.data/rows.jsonl") == ["rows.jsonl"]
    assert names(package, "pkg://shipping/data/*.jsonl") == ["rows.jsonl"]
    assert names(package, "pkg://shipping.data") == ["rows.jsonl"]
    assert "(did you mean 'rows.jsonl'?)" in error_of("pkg://shipping.data/row.jsonl")


@pytest.mark.parametrize("path", ["pkg://no_such_package/a.txt", "pkg:///a.txt"])
def test_a_package_that_is_not_installed_is_an_error(path: str) -> None:
    assert re.search(r"no package '\w*' is installed; expected pkg://", error_of(path))


def test_a_missing_file_is_an_error_with_the_nearest_name(folder: Path) -> None:
    message = error_of(folder / "b.json")
    assert message.startswith(f"{folder}/b.json does not exist (did you mean 'b.jsonl'?)")


def test_a_missing_folder_is_an_error_with_the_nearest_name(folder: Path) -> None:
    assert "(did you mean 'corpus'?)" in error_of(folder.parent / "corpsu" / "x" / "a.txt")


def test_a_glob_that_matches_nothing_is_an_error_with_the_nearest_suffix(folder: Path) -> None:
    message = error_of(folder / "*.jsnl")
    assert message.startswith(f"{folder}/*.jsnl matches no file (did you mean '*.jsonl'?)")
    assert "(did you mean 'corpus'?)" in error_of(folder.parent / "corpsu" / "**" / "*.txt")


def test_a_folder_without_known_files_is_an_error_that_lists_the_suffixes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("x")
    message = error_of(tmp_path)
    assert message.startswith(f"{tmp_path} holds no file of a known kind; expected .txt .md .jsonl")
    assert message.endswith(".parquet .arrow .feather")


def test_an_unknown_suffix_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonk").write_text("{}")
    message = error_of(tmp_path / "a.jsonk")
    assert "unknown suffix '.jsonk' (did you mean '.json'?); expected .txt .md" in message


def test_an_empty_path_is_not_the_current_folder() -> None:
    assert error_of("").startswith("data.path is empty")


def test_a_name_that_no_file_can_have_is_an_error() -> None:
    assert error_of("x" * 5_000 + ".txt").endswith(".txt cannot be looked up: File name too long")


def test_a_file_called_state_is_data_where_nothing_was_saved_by_datasets(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    assert names(tmp_path, str(tmp_path)) == ["state.json"]
