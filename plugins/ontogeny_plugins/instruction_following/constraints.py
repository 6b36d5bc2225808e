"""The instructions of a prompt: read from a row, verified on an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, get_type_hints

from ontogeny.errors import ConfigError, DataError
from ontogeny.evaluator import saying_where
from ontogeny.spelling import suggestion
from ontogeny_plugins.instruction_following import KEY, checks

if TYPE_CHECKING:
    from ontogeny.objective import Row

LANGUAGE = "language:response_language"
CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": checks.keywords_exist,
    "keywords:frequency": checks.keyword_frequency,
    "keywords:forbidden_words": checks.forbidden_words,
    "keywords:letter_frequency": checks.letter_frequency,
    LANGUAGE: checks.response_language,
    "length_constraints:number_sentences": checks.number_sentences,
    "length_constraints:number_paragraphs": checks.number_paragraphs,
    "length_constraints:number_words": checks.number_words,
    "length_constraints:nth_paragraph_first_word": checks.nth_paragraph_first_word,
    "detectable_content:number_placeholders": checks.number_placeholders,
    "detectable_content:postscript": checks.postscript,
    "detectable_format:number_bullet_lists": checks.number_bullet_lists,
    "detectable_format:constrained_response": checks.constrained_response,
    "detectable_format:number_highlighted_sections": checks.number_highlighted_sections,
    "detectable_format:multiple_sections": checks.multiple_sections,
    "detectable_format:json_format": checks.json_format,
    "detectable_format:title": checks.title,
    "combination:two_responses": checks.two_responses,
    "combination:repeat_prompt": checks.repeat_prompt,
    "startend:start_checker": checks.start_checker,
    "startend:end_checker": checks.end_checker,
    "startend:quotation": checks.quotation,
    "change_case:capital_word_frequency": checks.capital_word_frequency,
    "change_case:english_capital": checks.english_capital,
    "change_case:english_lowercase": checks.english_lowercase,
    "punctuation:no_comma": checks.no_comma,
}


@dataclass(frozen=True)
class Constraint:
    """An instruction with its arguments."""

    kind: str
    arguments: Mapping[str, object]

    def is_followed(self, answer: str) -> bool:
        """Say whether an answer follows the instruction as it stands; an empty one never does."""
        return bool(answer.strip()) and CHECKS[self.kind](answer, **self.arguments)

    def is_followed_loosely(self, answer: str) -> bool:
        """Say whether it does so without its asterisks, its first or its last line, or all those.

        IFEval, section 2.2: polite frames and Markdown are forgiven.
        """
        lines = answer.split("\n")
        parts = [
            answer,
            *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])),
        ]
        variants = [*parts, *(part.replace("*", "") for part in parts)]
        return any(self.is_followed(variant) for variant in variants)


def constraints_of(row: Row) -> list[Constraint]:
    """Return the instructions of a row; raise DataError for one that cannot be verified.

    They stand in `instructions` as a list of {id, kwargs}, or as in IFEval's file in
    `instruction_id_list` and `kwargs`.
    """
    with saying_where(row):
        return _constraints(row)


def _constraints(row: Row) -> list[Constraint]:
    where = f"{KEY}: the prompt {str(row['prompt'])[:60]!r}"
    found = [_constraint(kind, given, where) for kind, given in _given(row, where)]
    if not found:
        msg = f"{where} has no instructions; expected one or more"
        raise DataError(msg)
    return found


def require_langdetect(constraints: Sequence[Constraint]) -> None:
    """Raise ConfigError where a language is asked for and nothing here can tell one."""
    if all(constraint.kind != LANGUAGE for constraint in constraints):
        return
    try:
        import langdetect  # noqa: F401, PLC0415  optional
    except ImportError as error:
        msg = (
            f"{KEY}.path asks for languages ({LANGUAGE}), which needs the package langdetect: "
            f"pip install 'ontogeny[eval]', or leave those rows out"
        )
        raise ConfigError(msg) from error


def _given(row: Row, where: str) -> list[tuple[object, object]]:
    """Return kind and arguments of each instruction of a row, as they stand there."""
    if "instructions" in row:
        listed = row["instructions"]
        if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
            msg = f"{where} has instructions {listed!r}; expected a list of {{id, kwargs}}"
            raise DataError(msg)
        return [(each.get("id"), each.get("kwargs")) for each in listed]
    kinds, given = row["instruction_id_list"], row["kwargs"]
    if not isinstance(kinds, list) or not isinstance(given, list) or len(kinds) != len(given):
        msg = f"{where} has instruction_id_list and kwargs that are no lists of the same length"
        raise DataError(msg)
    return list(zip(kinds, given, strict=True))


def _constraint(kind: object, given: object, where: str) -> Constraint:
    if not isinstance(kind, str) or kind not in CHECKS:
        near = suggestion(str(kind), CHECKS)
        msg = f"{where} has the instruction {kind!r}{near}; known: {', '.join(CHECKS)}"
        raise DataError(msg)
    types = get_type_hints(CHECKS[kind])
    expected = {name: types[name] for name in types if name not in {"text", "return"}}
    # IFEval's file fills up what an instruction does not take with null.
    arguments = {
        str(name): value
        for name, value in cast("Mapping[str, object]", given or {}).items()
        if value is not None
    }
    for name, hint in expected.items():
        value = arguments.get(name)
        if hint is int and isinstance(value, float) and value.is_integer():
            arguments[name] = value = int(value)  # a table holds whole numbers as 3.0
        if not _fits(name, value, hint):
            msg = f"{where}: {kind} has {name} {value!r}; expected {_wanted(name, hint)}"
            raise DataError(msg)
    for name in arguments:
        if name not in expected:
            msg = f"{where}: {kind} takes no {name}; expected {', '.join(expected) or 'nothing'}"
            raise DataError(msg)
    return Constraint(kind, arguments)


def _fits(name: str, value: object, hint: object) -> bool:
    if "relation" in name:
        return value in checks.RELATIONS
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str) and bool(value)
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _wanted(name: str, hint: object) -> str:
    if "relation" in name:
        return " or ".join(repr(relation) for relation in checks.RELATIONS)
    return {int: "a whole number", str: "text"}.get(cast("type", hint), "a list of texts")
