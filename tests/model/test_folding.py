from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.folding import MAX_WORD_CHARACTERS, MAX_WORDS, fold, words_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Alice", "aLICE"),
        ("\u00c9COLE", "e\u0301cole"),
        ("STRASSE", "stra\u00dfe"),
        ("\uff21lice", "alice"),
    ],
    ids=["ASCII", "composed", "sharp s", "full width"],
)
def test_texts_that_people_hold_equal_fold_alike(one: str, other: str) -> None:
    assert fold(one, 100) == fold(other, 100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alice cooper", ["alice", "cooper"]),
        ("bob_smith-jones", ["bob", "smith", "jones"]),
        ("\U0001f98a", ["\U0001f98a"]),
        ("100% \\ ' \"", ["100"]),
        ("", []),
        ("a a a", ["a"]),
    ],
)
def test_words_are_what_stands_between_space_and_punctuation(text: str, words: list[str]) -> None:
    assert words == words_of(text)


@given(st.text(max_size=400), st.integers(1, 300))
def test_folding_is_total_and_bounded(text: str, length: int) -> None:
    folded = fold(text, length)
    assert len(folded) <= length
    assert "\x00" not in folded
    folded.encode()
    words = words_of(folded)
    assert len(words) <= MAX_WORDS
    assert all(0 < len(word) <= MAX_WORD_CHARACTERS for word in words)


def test_lone_surrogates_fold_to_something_that_can_be_stored() -> None:
    fold("a\ud800b", 10).encode()
