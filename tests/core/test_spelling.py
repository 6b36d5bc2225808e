from __future__ import annotations

from ontogeny.spelling import suggestion


def test_the_nearest_option_is_suggested() -> None:
    assert suggestion("betta", ["lr", "beta", "gamma"]) == " (did you mean 'beta'?)"


def test_nothing_is_suggested_when_nothing_is_close() -> None:
    assert suggestion("betta", ["lr", "r"]) == ""
    assert suggestion("betta", []) == ""


def test_case_does_not_count() -> None:
    assert suggestion("TEXT", ["Text", "id"]) == " (did you mean 'Text'?)"
