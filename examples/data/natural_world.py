"""Turn WordNet's nouns of the natural world into text, classes, instructions and preferences.

The unit is a pair of siblings: two terms that are a kind of the same thing and have glosses of like
length. Each one's gloss is the wrong answer for the other, so a wrong answer is wrong in fact and
not in style or length, and both terms of a pair are held out together, from every table at once.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = dict[str, str]

MEMBER = "usr/share/wordnet/data.noun"
# The numbers of the lexicographer files: lexnames(5WN).
COUNTABLE = {"05": "animal", "08": "body", "17": "object", "20": "plant"}
SUPERSENSES = COUNTABLE | {"19": "phenomenon", "22": "process", "27": "substance"}
GLOSS_CHARACTERS = range(40, 301)
PAIRS_PER_CLASS = 400
TEST_SHARE = 0.1
CLASSIFICATION_ROWS = 460  # of each class; this and the next two: of the training part
INSTRUCTION_ROWS = 2_400
PREFERENCE_ROWS = 1_500

TAXON = re.compile(r"(super|sub|infra)?(genus|family|order|class|phylum|division|kingdom) ")
VOWEL = re.compile(r"(?!eu|ew|one|u[ktv]|uni|ur[aeio]|use)[aeiou]|[FHLMNRSX]\b", re.IGNORECASE)
NOT_FOR_ALL_AGES = re.compile(r"\bsexual|erotic|genital|penis|vagina|obscene|offensive|slang")
MAY_BE_PLURAL = re.compile(r"(?<![aiosu])s$|ae$")


@dataclass(frozen=True)
class Noun:
    """A synset of WordNet: synonyms, what they mean, and the synset they are a kind of."""

    id: str
    words: tuple[str, ...]
    supersense: str  # empty outside the natural world
    gloss: str
    parent: str  # its id; empty at the root and for what has a name of its own, like a river


Pair = tuple[Noun, Noun]


@dataclass(frozen=True)
class Term:
    """A noun with all that its rows need."""

    noun: Noun
    sibling: Noun
    kind: str  # what both are a kind of
    split: str

    @property
    def name(self) -> str:
        """Return "an ibis", "a unicorn fish", "chlorine"."""
        word = self.noun.words[0]
        if self.noun.supersense not in COUNTABLE.values():
            return word
        return f"{'an' if VOWEL.match(word) else 'a'} {word}"

    @property
    def question(self) -> str:
        """Return the prompt of instructions and preferences."""
        return f"What is {self.name}?"

    def answer(self, gloss: str) -> str:
        """Return "A giraffe is a kind of ruminant: ….": a sentence, whatever the gloss is."""
        return f"{self.name[0].upper()}{self.name[1:]} is a kind of {self.kind}: {gloss}."

    def row(self, **columns: str) -> Row:
        """Add the columns that all tables share."""
        return columns | {"id": self.noun.id, "split": self.split}


def tables(data: bytes) -> dict[str, list[Row]]:
    """Return name -> rows; the test terms stand in all tables, as far as the table can use them."""
    terms = choose(parse(data.decode().splitlines()))
    askable = [term for term in terms if is_singular(term.noun)]
    comparable = [term for term in askable if is_singular(term.sibling)]
    return {
        "domain": [domain_row(term) for term in terms],
        "domain_classification": [classification_row(term) for term in balanced(terms)],
        "domain_instructions": [instruction_row(t) for t in limit(askable, INSTRUCTION_ROWS)],
        "domain_preferences": [preference_row(t) for t in limit(comparable, PREFERENCE_ROWS)],
    }


def domain_row(term: Term) -> Row:
    """Write the entry of a dictionary."""
    words = ", ".join(term.noun.words)
    return term.row(text=f"{words}: {term.noun.gloss}. It is a kind of {term.kind}.")


def classification_row(term: Term) -> Row:
    """Ask which part of the natural world a gloss is about."""
    return term.row(text=term.noun.gloss, label=term.noun.supersense)


def instruction_row(term: Term) -> Row:
    """Ask what a term is and answer in one sentence."""
    return term.row(prompt=term.question, completion=term.answer(term.noun.gloss))


def preference_row(term: Term) -> Row:
    """Prefer the term's own gloss to its sibling's."""
    chosen, rejected = term.answer(term.noun.gloss), term.answer(term.sibling.gloss)
    return term.row(prompt=term.question, chosen=chosen, rejected=rejected)


def limit(terms: Iterable[Term], train_rows: int) -> list[Term]:
    """Keep all test terms and the first training terms; an even number keeps pairs whole."""
    kept, train = [], 0
    for term in terms:
        train += term.split == "train"
        if term.split == "test" or train <= train_rows:
            kept.append(term)
    return kept


def balanced(terms: list[Term]) -> list[Term]:
    """Limit the training terms of each class, without changing the order."""
    classes = ([t for t in terms if t.noun.supersense == name] for name in SUPERSENSES.values())
    kept = {term for members in classes for term in limit(members, CLASSIFICATION_ROWS)}
    return [term for term in terms if term in kept]


def parse(lines: Iterable[str]) -> dict[str, Noun]:
    """Parse data.noun as wndb(5WN) describes it; its licence is indented by two spaces."""
    nouns = (parse_line(line) for line in lines if not line.startswith("  "))
    return {noun.id: noun for noun in nouns}


def parse_line(line: str) -> Noun:
    """Parse `offset file type count (word number)* count (symbol offset type number)* | gloss`."""
    head, gloss = line.split(" | ", 1)
    offset, file, _, count, *fields = head.split()
    end = 2 * int(count, 16)
    words = tuple(word.replace("_", " ") for word in fields[:end:2])
    pointers = zip(fields[end + 1 :: 4], fields[end + 2 :: 4], strict=False)
    parent = next((f"n{target}" for symbol, target in pointers if symbol == "@"), "")
    meaning = gloss.split('; "')[0].strip(" ;.")  # what follows are examples of use
    return Noun(f"n{offset}", words, SUPERSENSES.get(file, ""), meaning, parent)


def choose(nouns: dict[str, Noun]) -> list[Term]:
    """Return equally many terms of each class, as far as there are, in a fixed random order."""
    pairs = sorted(sibling_pairs(usable(nouns.values())), key=lambda pair: shuffle_key(pair[0].id))
    classes = defaultdict[str, list[Pair]](list)
    for pair in pairs:
        classes[pair[0].supersense].append(pair)
    chosen = (pair for members in classes.values() for pair in members[:PAIRS_PER_CLASS])
    # Families stand together: related text compresses better.
    line = sorted(chosen, key=lambda pair: (shuffle_key(pair[0].parent), pair[0].id))
    return [term for pair in line for term in terms_of(pair, nouns[pair[0].parent].words[0])]


def terms_of(pair: Pair, kind: str) -> tuple[Term, Term]:
    """Make terms of both nouns; one pair in ten is held out."""
    left, right = pair
    split = "test" if shuffle_key(f"split {left.id}") < TEST_SHARE else "train"
    return Term(left, right, kind, split), Term(right, left, kind, split)


def usable(nouns: Iterable[Noun]) -> list[Noun]:
    """Keep nouns whose words have one meaning here and whose gloss is their own plain prose."""
    natural = [noun for noun in nouns if noun.supersense and noun.parent]
    meanings = Counter(word.lower() for noun in natural for word in set(noun.words))
    glosses = Counter(noun.gloss for noun in natural)
    return [
        noun
        for noun in natural
        if all(meanings[word.lower()] == 1 for word in noun.words)
        and not any(TAXON.match(word) for word in noun.words)
        and glosses[noun.gloss] == 1
        and len(noun.gloss) in GLOSS_CHARACTERS
        and '"' not in noun.gloss
        and not NOT_FOR_ALL_AGES.search(noun.gloss)
    ]


def sibling_pairs(nouns: Iterable[Noun]) -> list[Pair]:
    """Pair nouns of one parent and one supersense by the length of their glosses."""
    families = defaultdict[tuple[str, str], list[Noun]](list)
    for noun in sorted(nouns, key=lambda noun: (len(noun.gloss), noun.id)):
        families[noun.parent, noun.supersense].append(noun)
    pairs = (
        (left, right)  # the longest gloss of an odd family is left out
        for family in families.values()
        for left, right in zip(family[::2], family[1::2], strict=False)
    )
    return [(left, right) for left, right in pairs if not are_alike(left.gloss, right.gloss)]


def are_alike(gloss: str, other: str) -> bool:
    """Tell whether half of the words are the same: then neither would be clearly wrong."""
    words, others = set(gloss.split()), set(other.split())
    return len(words & others) * 2 > len(words | others)


def is_singular(noun: Noun) -> bool:
    """Tell whether "What is a …?" fits; a few singulars in -s are lost."""
    return not MAY_BE_PLURAL.search(noun.words[0])


def shuffle_key(text: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8
