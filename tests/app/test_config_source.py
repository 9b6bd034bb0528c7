"""Lines of TOML keys, sizes and durations."""

from __future__ import annotations

import tomllib

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from homeserver.config_source import (
    ConfigError,
    Problem,
    dotted,
    line_of,
    nearest,
    parse_duration_ms,
    parse_size,
    toml_key_lines,
)

DOCUMENT = '''# comment = 1
top = "a # b"

[server]
name = 'x'  # [not.a.table]
text = """
fake = 1
\\"""
[fake]
"""
literal = \'\'\'
other = 2\'\'\'\'
after = [ # ]
  1,
  "two, ]",
  { inner = 3, deep.er = [4] },
]
"quoted key".sub = 1979-05-27 07:32:00

[[listeners]]
port = 1
[listeners.extra]
a = 1
[[listeners]]
port = 2
[[listeners.inner]]
b = {}
[ a . "b c" ]
d = true
'''


@pytest.mark.parametrize(
    ("location", "line"),
    [
        (("top",), 2),
        (("server",), 4),
        (("server", "name"), 5),
        (("server", "text"), 6),
        (("server", "literal"), 11),
        (("server", "after"), 13),
        (("server", "after", 0), 14),
        (("server", "after", 1), 15),
        (("server", "after", 2, "inner"), 16),
        (("server", "after", 2, "deep", "er", 0), 16),
        (("server", "quoted key", "sub"), 18),
        (("listeners", 0), 20),
        (("listeners", 0, "port"), 21),
        (("listeners", 0, "extra", "a"), 23),
        (("listeners", 1, "port"), 25),
        (("listeners", 1, "inner", 0, "b"), 27),
        (("a", "b c", "d"), 29),
    ],
    ids=str,
)
def test_toml_keys_have_their_lines(location: tuple[str | int, ...], line: int) -> None:
    tomllib.loads(DOCUMENT)
    assert line == toml_key_lines(DOCUMENT)[location]


def test_no_key_is_found_inside_of_strings_and_comments() -> None:
    found = {part for location in toml_key_lines(DOCUMENT) for part in location}
    assert not found & {"comment", "fake", "other", "not"}


def test_a_place_without_a_line_takes_the_line_around_it() -> None:
    assert 4 == line_of(toml_key_lines(DOCUMENT), ("server", "missing"))
    assert line_of({}, ("server",)) is None


_KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\r", exclude_categories=("Cc", "Cs")), min_size=1)
_PLAIN = st.one_of(
    st.integers(-(2**60), 2**60), st.booleans(), st.text(st.sampled_from("a\"'\\\n[]{}#=,. é"), max_size=12)
)
_VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_every_top_level_key_of_any_toml_document_is_found(document: dict[str, object]) -> None:
    text = tomlkit.dumps(document)
    # tomlkit escapes quoted keys; the place of such a key is told by its escaped name, or by what is around it.
    expected = {key for key in tomllib.loads(text) if key.isascii() and key.isalnum()}
    assert expected <= {location[0] for location in toml_key_lines(text)}


@given(st.text(st.sampled_from("ab.=[]{}\"'\\#,\n 1"), max_size=60))
def test_the_scan_ends_on_any_text(text: str) -> None:
    toml_key_lines(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5), ("5", 5), ("50M", 50 * 1024**2), ("500MiB", 500 * 1024**2), ("87KiB", 87 * 1024), ("1g", 1024**3)],
)
def test_sizes(value: object, expected: int) -> None:
    assert expected == parse_size(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5), ("5", 5), ("10ms", 10), ("2s", 2000), ("5m", 300_000), ("1h", 3_600_000), ("7d", 604_800_000)],
)
def test_durations(value: object, expected: int) -> None:
    assert expected == parse_duration_ms(value)


@pytest.mark.parametrize(
    "value", ["", "M", "-1", -1, 1.5, True, None, "5Q", "9" * 39, "9" * 10_000, 2**70, [], "1 h h"]
)
def test_what_is_neither_size_nor_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(value)
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration_ms(value)


def test_the_nearest_key_is_found_in_any_case() -> None:
    assert "bcrypt_rounds" == nearest("Bcrypt_Round", ["enabled", "bcrypt_rounds"])
    assert nearest("zzz", ["enabled"]) is None


def test_an_error_lists_its_problems_in_the_order_of_lines() -> None:
    error = ConfigError("a.toml", [Problem(9, "b", "wrong"), Problem(None, "", "missing"), Problem(2, "a", "bad")])
    assert "a.toml: 3 mistakes\n  missing\n  line 2: a: bad\n  line 9: b: wrong" == str(error)


def test_a_location_is_written_with_dots_and_brackets() -> None:
    assert "listeners[0].port" == dotted(("listeners", 0, "port"))
