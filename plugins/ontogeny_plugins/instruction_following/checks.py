"""Whether a text follows an instruction: one function for each kind.

Names of the arguments, and what counts, are those of IFEval (Zhou et al., 2023) except where a
function says so. `relation` is "less than" or "at least".
"""

from __future__ import annotations

import json
import re
from itertools import takewhile

LESS, AT_LEAST = RELATIONS = ("less than", "at least")
ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
FENCES = ("```json", "```Json", "```JSON", "```")
WORD = re.compile(r"\w+")
HYPHENATED = re.compile(r"\w+(?:[-'\u2019]\w+)*")
SENTENCE = re.compile(r"[^.!?。！？]*\w[^.!?。！？]*[.!?。！？]*")  # noqa: RUF001  Chinese full stops
POSTSCRIPTS = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}


def compares(number: int, relation: str, bound: int) -> bool:
    """Say whether a number is less than, or at least, a bound."""
    return number < bound if relation == LESS else number >= bound


def keywords_exist(text: str, *, keywords: list[str]) -> bool:
    """Ask for every keyword, in any case."""
    return all(_count(keyword, text) for keyword in keywords)


def keyword_frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """Ask how often a keyword stands in the text, in any case."""
    return compares(_count(keyword.strip(), text), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: list[str]) -> bool:
    """Ask that none of some words stands in the text, in any case."""
    return not any(
        re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words
    )


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """Ask how often a letter stands in the text, in any case."""
    return compares(text.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(text: str, *, language: str) -> bool:
    """Ask for a language, as ISO 639-1 names it; a text without words passes."""
    from langdetect import DetectorFactory, LangDetectException, detect  # noqa: PLC0415  optional

    DetectorFactory.seed = 0  # its guesses are drawn at random otherwise
    try:
        return bool(detect(text) == language)
    except LangDetectException:
        return True


def number_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    """Ask for a number of sentences: of stretches with a word in them that end with . ! or ?.

    IFEval cuts with NLTK's Punkt model, which knows abbreviations.
    """
    found = [each for line in text.splitlines() for each in SENTENCE.findall(_decimal_free(line))]
    return compares(len(found), relation, num_sentences)


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Ask for exactly so many paragraphs with *** between them, none of them empty."""
    paragraphs = _between(re.split(r"\s?\*\*\*\s?", text))
    return len(paragraphs) == num_paragraphs and all(paragraphs)


def number_words(text: str, *, num_words: int, relation: str) -> bool:
    """Ask for a number of words."""
    return compares(len(WORD.findall(text)), relation, num_words)


def nth_paragraph_first_word(
    text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Ask for exactly so many paragraphs with empty lines between them, one beginning in a way."""
    paragraphs = text.split("\n\n")
    filled = [paragraph for paragraph in paragraphs if paragraph.strip()]
    if len(filled) != num_paragraphs or nth_paragraph > len(filled):
        return False
    words = paragraphs[nth_paragraph - 1].split()
    word = words[0].lstrip("'").lstrip('"').lower() if words else ""
    return "".join(takewhile(lambda letter: letter not in ".,?!'\"", word)) == first_word.lower()


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    """Ask for at least so many placeholders, such as [name]."""
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, *, postscript_marker: str) -> bool:
    """Ask for a postscript that begins with a marker."""
    marker = postscript_marker.strip()
    pattern = POSTSCRIPTS.get(marker, rf"\s*{re.escape(marker.lower())}.*$")
    return re.search(pattern, text.lower(), re.MULTILINE) is not None


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    """Ask for exactly so many points, on lines of their own that begin with * or -."""
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(text: str) -> bool:
    """Ask for one of IFEval's three answers, such as "My answer is yes."."""
    return any(answer in text for answer in ANSWERS)


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """Ask for at least so many *highlighted* parts; a **double** one counts by itself too."""
    single = [part.strip("*").strip() for part in re.findall(r"\*[^\n\*]*\*", text)]
    double = [part[2:-2].strip() for part in re.findall(r"\*\*[^\n\*]*\*\*", text)]
    return sum(map(bool, single + double)) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """Ask for at least so many sections, each begun by a word and a number."""
    pattern = rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?"
    return len(re.split(pattern, text)) - 1 >= num_sections


def json_format(text: str) -> bool:
    """Ask for JSON and nothing else, within a code fence or without one."""
    text = text.strip()
    for fence in FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def title(text: str) -> bool:
    """Ask for a title, such as <<poem of joy>>."""
    return any(found.strip("<> ") for found in re.findall(r"<<[^\n]+>>", text))


def two_responses(text: str) -> bool:
    """Ask for two different answers with ****** between them."""
    answers = _between(text.split("******"))
    return len(answers) == 2 and all(answers) and answers[0] != answers[1]


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """Ask that the answer begins with the request, in any case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def start_checker(text: str, *, start_phrase: str) -> bool:
    """Ask that the answer begins with a phrase, in any case. IFEval has no such instruction."""
    return text.strip().strip('"').lower().startswith(start_phrase.strip().lower())


def end_checker(text: str, *, end_phrase: str) -> bool:
    """Ask that the answer ends with a phrase, in any case."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    """Ask for double quotation marks around the whole answer."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """Ask for a number of words in capital letters; one with hyphens counts once."""
    capital = [word for word in HYPHENATED.findall(text) if word.isupper()]
    return compares(len(capital), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    """Ask for capital letters only. IFEval also asks langdetect whether the text is English."""
    return text.isupper()


def english_lowercase(text: str) -> bool:
    """Ask for small letters only. IFEval also asks langdetect whether the text is English."""
    return text.islower()


def no_comma(text: str) -> bool:
    """Ask for a text without commas."""
    return "," not in text


def _count(keyword: str, text: str) -> int:
    return len(re.findall(re.escape(keyword), text, re.IGNORECASE))


def _between(parts: list[str]) -> list[str]:
    """Return what stands between dividers, stripped; nothing needs to stand at the two ends."""
    parts = [part.strip() for part in parts]
    if parts and not parts[0]:
        parts = parts[1:]
    return parts[:-1] if parts and not parts[-1] else parts


def _decimal_free(line: str) -> str:
    """Take away full stops within words and numbers, such as 3.14, which end no sentence."""
    return re.sub(r"(?<=\w)\.(?=\w)", "", line)
