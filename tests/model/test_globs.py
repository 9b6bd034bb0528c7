"""Globs agree with a regular expression oracle and stay fast where that one would not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.globs import MAX_SEARCHED_CHARACTERS, compile_glob, contains_words, glob_match, has_wildcards

PATTERNS = st.text(alphabet="ab*?- .\n", max_size=8)
TEXTS = st.text(alphabet="abAB_1- .\n", max_size=12)


def as_regex(pattern: str, question_mark: bool) -> str:
    wild = {"*": ".*", "?": "."} if question_mark else {"*": ".*"}
    return "".join(wild.get(character, re.escape(character)) for character in pattern)


@given(PATTERNS, TEXTS, st.booleans())
def test_whole_match_equals_the_oracle(pattern: str, text: str, question_mark: bool) -> None:
    expected = re.fullmatch(as_regex(pattern, question_mark), text, re.DOTALL) is not None
    assert expected == glob_match(pattern, text, question_mark=question_mark)


@given(PATTERNS, TEXTS)
def test_ignoring_case_is_matching_in_lower_case(pattern: str, text: str) -> None:
    assert glob_match(pattern.lower(), text.lower()) == glob_match(pattern.upper(), text, ignore_case=True)


@given(PATTERNS, TEXTS)
def test_word_match_equals_the_oracle(pattern: str, text: str) -> None:
    def is_boundary(place: int) -> bool:
        return place in (0, len(text)) or not re.fullmatch("[A-Za-z0-9_]{2}", text[place - 1 : place + 1])

    regex = re.compile(as_regex(pattern, True), re.DOTALL)
    places = [place for place in range(len(text) + 1) if is_boundary(place)]
    expected = any(regex.fullmatch(text, start, end) for start in places for end in places if start <= end)
    assert expected == glob_match(pattern, text, words=True)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        # Spec: client-server API, "Conditions", `event_match`.
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("ex*ple", "an exciting triplet", False),
        ("cake", "I like cake!", True),
        ("cake", "cupcakes, cake_s", False),
        ("cake", "CAKE", True),
        ("caf?", "a café here", True),
        ("世界", "你好世界", True),
        ("*ple", "a triple jump", True),
        ("", "", True),
    ],
)
def test_words_are_found_as_in_the_examples_of_the_spec(pattern: str, text: str, expected: bool) -> None:
    assert expected == glob_match(pattern, text, ignore_case=True, words=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Lunch plans", True), ("LUNCH", True), (" lunch", False), ("lunc", False)],
)
def test_a_whole_value_is_matched_as_in_the_examples_of_the_spec(text: str, expected: bool) -> None:
    assert expected == glob_match("lunc?*", text, ignore_case=True)


@pytest.mark.parametrize("pattern", ["*a" * 60 + "b", "?a" * 60 + "*b", "*a?" * 50 + "b", "a*" * 100 + "c"])
@pytest.mark.parametrize("words", [True, False])
def test_patterns_that_make_others_backtrack_just_fail(pattern: str, words: bool) -> None:
    assert not compile_glob(pattern, words=words)("a" * 60_000)


def test_words_beyond_the_limit_are_not_looked_for() -> None:
    assert not contains_words("cake", " " * MAX_SEARCHED_CHARACTERS + "cake")


@pytest.mark.parametrize(("pattern", "expected"), [("*a?c*", False), ("*abc*", True), ("*c", True)])
def test_only_question_marks_between_stars_are_not_looked_for_in_long_texts(pattern: str, expected: bool) -> None:
    assert expected == glob_match(pattern, " " * MAX_SEARCHED_CHARACTERS + "abc")


@pytest.mark.parametrize(("pattern", "expected"), [("a", False), ("a*", True), ("?", True), ("", False)])
def test_wildcards_are_recognized(pattern: str, expected: bool) -> None:
    assert expected == has_wildcards(pattern)
