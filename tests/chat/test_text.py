from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.chat import text

ANYTHING = st.text(st.characters(codec=None), max_size=300)
HARMFUL = {"Cc", "Cs", "Zl", "Zp"}
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J\x1b[H", "␛[2J␛[H"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("a\u009bb", "a\ufffdb"),
        ("del\x7f", "del␡"),
        ("nul\x00", "nul␀"),
        ("a\nb\r\nc\u2028d", "a b c d"),
        ("\u202eevil\u202c", "evil"),
        ("\u2066x\u2069", "x"),
        ("a\u200bb\ufeffc", "abc"),
        ("\ud800", "\ufffd"),
        ("tag\U000e0041", "tag"),
        ("  many   spaces\t ", "many spaces"),
        (None, ""),
        (17, ""),
        ({"a": "b"}, ""),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_what_orders_a_terminal_is_shown_as_a_sign_or_left_out(hostile: object, shown: str) -> None:
    assert shown == text.one_line(hostile)


@given(ANYTHING)
def test_one_line_holds_nothing_harmful(anything: str) -> None:
    shown = text.one_line(anything)
    assert not HARMFUL & {unicodedata.category(character) for character in shown}
    assert not BIDI & set(shown)
    assert len(shown) <= text.MAX_LINE + 1


@given(ANYTHING)
def test_lines_hold_nothing_harmful(anything: str) -> None:
    for line in text.lines(anything):
        assert not HARMFUL & {unicodedata.category(character) for character in line}
        assert not BIDI & set(line)


@given(ANYTHING)
def test_what_is_shown_can_be_encoded(anything: str) -> None:
    text.name(anything, "@x:y").encode()


def test_body_keeps_its_lines_and_their_indents() -> None:
    assert ["def f():", "    return 1", "", "end"] == text.lines("def f():\n\treturn 1\r\n\r\nend\n\n")


def test_body_of_a_thousand_lines_is_cut() -> None:
    lines = text.lines("x\n" * 1000)
    assert (text.MAX_LINES + 1, "…") == (len(lines), lines[-1])


def test_huge_line_is_cut() -> None:
    assert 100 == len(text.one_line("x" * 10_000_000, 100))


def test_marks_do_not_pile_up() -> None:
    assert "a" + "\u0301" * text.MAX_MARKS == text.one_line("a" + "\u0301" * 500)


@pytest.mark.parametrize("hidden", ["", " ", "\u200b\u2060", "\u3164", "\u2800\u2800", "\u0301", "\u202e"], ids=ascii)
def test_name_of_which_nothing_is_seen_gives_way_to_the_id(hidden: str) -> None:
    assert "@bob:x" == text.name(hidden, "@bob:x")


def test_emoji_of_several_parts_stays_whole_in_a_body() -> None:
    assert ["👩\u200d🔧 ❤\ufe0f"] == text.lines("👩\u200d🔧 ❤\ufe0f")


def test_names_that_look_alike_have_one_look() -> None:
    assert text.look("ＡLICE") == text.look("alice")
