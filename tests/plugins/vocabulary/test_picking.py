"""Picked tokens: which they are, what they save, and that all else stays as it was."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from ontogeny import ConfigError, DataError
from ontogeny_plugins.vocabulary import Vocabulary
from ontogeny_plugins.vocabulary.expansion import Expansion, extend_rules
from ontogeny_plugins.vocabulary.linked_text import LinkedText
from ontogeny_plugins.vocabulary.rules import backend_of
from ontogeny_plugins.vocabulary.unigram import most_saved

KINDS = ["byte_level", "sentencepiece", "wordpiece", "unigram"]
# Text that none of the tokenizers has seen the like of.
STRANGE = "naïve 心肌梗死, 💔\n\n\ttabs  and   spaces: don't  "
Texts = list[str]
Picked = dict[str, tuple[Tokenizer, Expansion]]


def pick(rules: str, texts: Texts, size: int = 150, **options: Any) -> tuple[Tokenizer, Expansion]:
    extended = json.loads(rules)
    found = extend_rules(extended, texts, [], size, Vocabulary(**options))
    return backend_of(extended), found


def count(backend: Tokenizer, texts: Texts) -> int:
    return sum(len(each.ids) for each in backend.encode_batch(texts, add_special_tokens=False))


def there_and_back(backend: Tokenizer, text: str) -> str:
    ids = backend.encode(text, add_special_tokens=False).ids
    return backend.decode(ids, skip_special_tokens=False)


@pytest.fixture(scope="module")
def picked(rules: dict[str, str], domain: Texts) -> dict[str, tuple[Tokenizer, Expansion]]:
    """Return each kind of tokenizer with 150 tokens of the domain."""
    return {kind: pick(written, domain) for kind, written in rules.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_counted_as_saved_is_what_encoding_saves(
    kind: str, picked: Picked, rules: dict[str, str], domain: Texts
) -> None:
    after, found = picked[kind]
    before = Tokenizer.from_str(rules[kind])
    assert found.tokens == count(before, domain)
    assert found.saved == count(before, domain) - count(after, domain)
    assert found.saved > 0.1 * found.tokens


@pytest.mark.parametrize("kind", KINDS)
def test_old_ids_stay_and_new_ones_follow_them_all(
    kind: str, picked: Picked, rules: dict[str, str], domain: Texts
) -> None:
    after, found = picked[kind]
    before = Tokenizer.from_str(rules[kind])
    old = before.get_vocab()
    assert {token: after.token_to_id(token) for token in old} == old
    assert found.first_id == len(old) == before.token_to_id("<|chat|>") + 1
    assert [after.token_to_id(token) for token in found.spellings] == list(found.ids)
    assert after.get_vocab_size() == len(old) + 150


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_as_before(
    kind: str, rules: dict[str, str], domain: Texts, held_out: Texts
) -> None:
    after, _ = pick(rules[kind], [*domain[:100], STRANGE * 9])
    before = Tokenizer.from_str(rules[kind])
    for text in [STRANGE, f"{STRANGE}<|chat|>{STRANGE}", *held_out]:
        assert there_and_back(after, text) == there_and_back(before, text)
    if kind in {"byte_level", "sentencepiece"}:
        assert all(there_and_back(after, text) == text for text in [STRANGE, *held_out])


# WordPiece takes the longest match: a new token can move the border of the next one.
@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "unigram"])
def test_the_pieces_of_new_tokens_are_what_the_old_rules_make_of_texts(
    kind: str, picked: Picked, rules: dict[str, str], domain: Texts, held_out: Texts
) -> None:
    after, found = picked[kind]
    before = Tokenizer.from_str(rules[kind])
    for text in held_out:
        new = after.encode(text, add_special_tokens=False).ids
        spelt = [
            piece
            for token in new
            for piece in (found.pieces[token - found.first_id] if token in found.ids else [token])
        ]
        assert spelt == before.encode(text, add_special_tokens=False).ids


def test_bpe_goes_on_as_a_slow_reference_does(rules: dict[str, str], domain: Texts) -> None:
    """Count all pairs, merge the most frequent one, and again."""
    texts = domain[:60]
    after, found = pick(rules["byte_level"], texts, size=40)
    assert found.spellings == _slow_merges(Tokenizer.from_str(rules["byte_level"]), texts, 40)
    assert json.loads(after.to_str())["model"]["merges"][-40:] != []


def _slow_merges(backend: Tokenizer, texts: Texts, size: int) -> Texts:
    vocabulary = backend.get_vocab()
    ids = dict(vocabulary)
    words: list[Texts] = []
    for encoding in backend.encode_batch(texts, add_special_tokens=False):
        for number in dict.fromkeys(encoding.word_ids):
            places = [p for p, word in enumerate(encoding.word_ids) if word == number]
            words.append([encoding.tokens[place] for place in places])
    made: Texts = []
    while len(made) < size:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        free = {pair: n for pair, n in pairs.items() if "".join(pair) not in ids}
        best = min(free, key=lambda pair: (-free[pair], ids[pair[0]], ids[pair[1]]))
        ids["".join(best)] = len(ids)
        made.append("".join(best))
        words = [_slow_merge(word, best) for word in words]
    return made


def _slow_merge(word: Texts, pair: tuple[str, str]) -> Texts:
    merged: Texts = []
    for token in word:
        if merged and (merged[-1], token) == pair and not merged[-1].startswith("\0"):
            merged[-1] += token
        else:
            merged.append(token)
    return merged


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_the_first_token_picked_is_the_best_of_all(
    kind: str, rules: dict[str, str], domain: Texts
) -> None:
    texts = domain[:1]
    before = Tokenizer.from_str(rules[kind])
    _, found = pick(rules[kind], texts, size=1, min_saved=1)
    saved = {}
    for candidate in _runs(before, texts):
        extended = json.loads(rules[kind])
        only = _with_one(extended, candidate, found)
        saved[candidate] = count(before, texts) - count(backend_of(only), texts)
    assert found.saved == max(saved.values())
    assert saved[found.spellings[0]] == found.saved


def _runs(backend: Tokenizer, texts: Texts) -> Texts:
    """Return all that neighbouring tokens of a word spell together."""
    runs: dict[str, None] = {}
    known = backend.get_vocab()
    for encoding in backend.encode_batch(texts, add_special_tokens=False):
        for begin in range(len(encoding)):
            for end in range(begin + 2, len(encoding) + 1):
                if len(set(encoding.word_ids[begin:end])) > 1:
                    break
                if known.keys() >= set(encoding.tokens[begin:end]):  # nothing unknown
                    first, *rest = encoding.tokens[begin:end]
                    runs[first + "".join(token.removeprefix("##") for token in rest)] = None
    return [run for run in runs if run not in known]


def _with_one(rules: dict[str, Any], token: str, found: Expansion) -> dict[str, Any]:
    vocabulary = rules["model"]["vocab"]
    if isinstance(vocabulary, dict):
        vocabulary[token] = found.first_id
    else:
        scores = dict(vocabulary)
        pieces = [t.value for t in Tokenizer.from_str(json.dumps(rules)).model.tokenize(token)]
        vocabulary.append(["<|chat|>", -20.0])
        vocabulary.append([token, sum(scores[piece] for piece in pieces) + 1e-4])
    return rules


def test_characters_that_were_bytes_become_tokens(rules: dict[str, str]) -> None:
    texts = ["心肌,心肌"] * 5
    after, found = pick(rules["sentencepiece"], texts, size=3)
    before = Tokenizer.from_str(rules["sentencepiece"])
    assert sorted(found.spellings) == ["心", "心肌", "肌"]
    byte_ids = [before.token_to_id(f"<0x{byte:02X}>") for byte in "心肌".encode()]
    assert found.pieces[found.spellings.index("心肌")] == byte_ids
    assert found.saved == count(before, texts) - count(after, texts)
    assert there_and_back(after, "心肌肌心死 心肌") == "心肌肌心死 心肌"


def test_characters_in_bytes_become_tokens_of_a_unigram_model_too(rules: dict[str, str]) -> None:
    written = json.loads(rules["unigram"])
    vocabulary = written["model"]["vocab"]
    first = len(vocabulary)
    vocabulary += [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
    written["model"]["byte_fallback"] = True
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, written["decoder"]]}
    written["decoder"] = decoder
    written["added_tokens"] = [t for t in written["added_tokens"] if t["id"] < first]
    texts = ["心肌梗死,心肌"] * 5
    after, found = pick(json.dumps(written), texts, size=20, min_saved=1)
    before = backend_of(written)
    assert "心肌" in "".join(found.spellings)
    assert found.saved == count(before, texts) - count(after, texts) > 0
    for text in [*texts, "a心b肌 心肌梗 死亡"]:
        assert there_and_back(after, text) == there_and_back(before, text)
        spelt = [
            piece
            for token in after.encode(text).ids
            for piece in (found.pieces[token - found.first_id] if token in found.ids else [token])
        ]
        assert spelt == before.encode(text).ids


def test_runs_over_line_ends_count_as_others_do(rules: dict[str, str]) -> None:
    after, found = pick(rules["unigram"], ["iron\nore", "iron\nore\niron"] * 9, size=3, min_saved=1)
    before = Tokenizer.from_str(rules["unigram"])
    texts = ["iron\nore", "iron\nore\niron"] * 9
    assert found.saved == count(before, texts) - count(after, texts) > 0


@pytest.mark.parametrize(
    ("spans", "saved"),
    [
        ([(0, 3)], [0, 0, 0, 2, 2, 2]),
        ([(0, 2), (1, 4), (3, 5)], [0, 0, 1, 1, 2, 2]),
        ([(0, 5), (0, 2), (3, 5)], [0, 0, 1, 1, 1, 4]),
    ],
)
def test_spans_that_save_most_do_not_overlap(
    spans: list[tuple[int, int]], saved: list[int]
) -> None:
    assert most_saved(6, spans) == saved


def test_no_token_mixes_bytes_with_anything(rules: dict[str, str]) -> None:
    _, found = pick(rules["sentencepiece"], ["a\nb\nc\n💔\n"] * 50, size=20)
    assert not [token for token in found.spellings if "<0x" in token]


def test_no_token_crosses_words_where_the_rules_split_nothing(
    rules: dict[str, str], domain: Texts
) -> None:
    for kind in ("sentencepiece", "byte_level"):
        unsplit = json.loads(rules[kind])
        if kind == "byte_level":
            unsplit["pre_tokenizer"]["use_regex"] = False
        _, found = pick(json.dumps(unsplit), domain)
        stripped = [token.lstrip("▁Ġ") for token in found.spellings]
        assert not [token for token in stripped if "▁" in token or "Ġ" in token]


def test_tokens_across_words_save_more_where_they_can_be(
    rules: dict[str, str], domain: Texts
) -> None:
    texts = domain[:300]
    before = Tokenizer.from_str(rules["sentencepiece"])
    _, within = pick(rules["sentencepiece"], texts)
    after, across = pick(rules["sentencepiece"], texts, across_words=True)
    assert "▁It▁is▁a▁kind▁of▁" in "".join(across.spellings)
    assert across.saved > within.saved
    assert across.saved == count(before, texts) - count(after, texts)


@pytest.mark.parametrize("kind", ["byte_level", "wordpiece", "unigram"])
def test_tokens_across_words_are_refused_where_text_is_split(
    kind: str, rules: dict[str, str], domain: Texts
) -> None:
    with pytest.raises(ConfigError, match=r"across_words is true, but the tokenizer splits"):
        pick(rules[kind], domain, across_words=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_saves_what_was_asked_for(
    kind: str, rules: dict[str, str], domain: Texts
) -> None:
    texts = domain[:100]
    _, few = pick(rules[kind], texts, size=10_000, min_saved=30)
    _, many = pick(rules[kind], texts, size=10_000, min_saved=3)
    assert 0 < len(few) < len(many) < 10_000
    assert few.saved >= 30 * len(few)
    assert many.saved >= 3 * len(many)


def test_text_without_anything_to_save_is_an_error(rules: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"no new token would save 5 tokens of 7 bytes"):
        pick(rules["byte_level"], ["nothing"])


def test_special_tokens_in_the_text_are_left_alone(rules: dict[str, str]) -> None:
    texts = ["<|chat|><|chat|>iodine <|chat|>"] * 100
    for kind in KINDS:
        after, found = pick(rules[kind], texts, min_saved=1)
        assert not [token for token in found.spellings if "|" in token]
        assert after.encode("<|chat|>x").ids[0] in {
            after.token_to_id("<|chat|>"),
            after.token_to_id("[CLS]"),
        }


def test_pairs_of_equal_tokens_are_merged_from_left_to_right() -> None:
    text = LinkedText({(1, 1, 1): 2, (1, 1, 1, 1): 1, (2, 1): 5}, apart=set())
    assert text.counts[1, 1] == 2 * 2 + 3
    assert text.merge((1, 1), 9) == 2 + 2
    assert {pair: n for pair, n in text.counts.items() if n} == {(9, 1): 2, (9, 9): 1, (2, 1): 5}


def test_a_subword_prefix_and_an_end_of_word_are_spelt_as_the_library_does() -> None:
    letters = ["h", "##e", "##a", "##r", "##t</w>", "##a</w>", "h</w>"]
    model = models.BPE(
        {letter: number for number, letter in enumerate(letters)},
        [],
        continuing_subword_prefix="##",
        end_of_word_suffix="</w>",
    )
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    backend.normalizer = normalizers.Lowercase()
    after, found = pick(backend.to_str(), ["heart Heart heart"] * 10, size=9)
    assert found.spellings[-1] == "heart</w>"
    assert after.encode("Heart").tokens == ["heart</w>"]
