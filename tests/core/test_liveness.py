"""Which options were read, by name."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import dataclass, field, fields

import pytest

from ontogeny.configuration import plain, stable
from ontogeny.liveness import track, unread


@dataclass
class Inner:
    depth: int = 1
    width: int = 2


@dataclass
class Options:
    size: int = 3
    inner: Inner = field(default_factory=Inner)
    values: dict[str, object] = field(default_factory=lambda: {"a": {"b": 1}})
    nothing: Inner | None = None


@dataclass
class Root:
    part: Options = field(default_factory=Options)
    listed: dict[str, Options] = field(default_factory=lambda: {"one": Options()})
    number: int = 0


@pytest.fixture
def root() -> Root:
    made = Root()
    track(made.part)
    track(made.listed["one"])
    return made


def test_an_option_that_nothing_reads_is_found(root: Root) -> None:
    assert root.part.size == 3
    assert unread(root, ["part.size", "part.inner.depth"]) == ["part.inner.depth"]


def test_reading_a_part_does_not_read_what_is_in_it(root: Root) -> None:
    inner = root.part.inner
    assert unread(root, ["part.inner.depth", "part.inner.width"]) != []
    assert inner.depth == 1
    assert unread(root, ["part.inner.depth", "part.inner.width"]) == ["part.inner.width"]


def test_a_dictionary_is_read_as_a_whole(root: Root) -> None:
    assert unread(root, ["part.values.a.b"]) == ["part.values.a.b"]
    assert root.part.values
    assert unread(root, ["part.values.a.b", "part.values.new"]) == []


def test_components_of_a_list_are_followed_by_their_names(root: Root) -> None:
    assert unread(root, ["listed.one.size"]) == ["listed.one.size"]
    assert root.listed["one"].size == 3
    assert unread(root, ["listed.one.size"]) == []


def test_what_is_no_field_counts_as_read(root: Root) -> None:
    assert unread(root, ["hydra.run.dir", "number", "part.other", "listed.two.size"]) == []


def test_reads_before_tracking_began_do_not_count() -> None:
    root = Root()
    assert root.part.size == 3
    track(root.part)
    assert unread(root, ["part.size"]) == ["part.size"]


def test_tracking_twice_forgets_nothing(root: Root) -> None:
    assert root.part.size == 3
    track(root.part)
    assert unread(root, ["part.size"]) == []


def test_tracked_options_are_still_what_they_were(root: Root) -> None:
    assert isinstance(root.part, Options)
    assert [item.name for item in fields(root.part)] == ["size", "inner", "values", "nothing"]
    assert type(root.part).__name__ == "Options"
    assert repr(root.part) == repr(Options())
    root.part.size = 5
    assert root.part.size == 5


def test_hashing_and_writing_options_reads_nothing(root: Root) -> None:
    assert stable(root.part) == stable(Options())
    assert plain(root.part) == plain(Options())
    assert unread(root, ["part.size", "part.inner.depth"]) == ["part.size", "part.inner.depth"]


def test_copies_for_other_processes_are_plain_and_complete(root: Root) -> None:
    root.part.size = 7
    for copy in (pickle.loads(pickle.dumps(root.part)), deepcopy(root.part)):
        assert type(copy) is Options
        assert type(copy.inner) is Inner
        assert copy == Options(size=7)


def test_what_is_no_dataclass_is_left_alone() -> None:
    values = {"a": 1}
    track(values)
    track(None)
    assert values == {"a": 1}
