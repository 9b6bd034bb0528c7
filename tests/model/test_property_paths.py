from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.property_paths import ABSENT, find_property, join_path, split_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to", ("content", "m.relates_to")),
        (r"content.m\\foo", ("content", "m\\foo")),
        (r"content.\x", ("content", "\\x")),
        ("", ("",)),
        ("a..b", ("a", "", "b")),
        ("a\\", ("a\\",)),
        (r"a\\.b", ("a\\", "b")),
    ],
)
def test_paths_are_split_at_dots_that_are_not_escaped(text: str, expected: tuple[str, ...]) -> None:
    assert expected == split_path(text)


@given(st.lists(st.text(alphabet="a.\\x", max_size=5), min_size=1, max_size=4).map(tuple))
def test_a_joined_path_is_split_into_the_same_names(path: tuple[str, ...]) -> None:
    assert path == split_path(join_path(path))


@pytest.mark.parametrize(
    ("path", "expected"),
    [(("a", "b"), None), (("a", "c"), ABSENT), (("a", "b", "c"), ABSENT), (("l", "0"), ABSENT), (("s", "x"), ABSENT)],
)
def test_only_objects_are_entered(path: tuple[str, ...], expected: object) -> None:
    assert expected is find_property({"a": {"b": None}, "l": ["x"], "s": "xyz"}, path)


def test_absent_has_a_name() -> None:
    assert "ABSENT" == repr(ABSENT)
