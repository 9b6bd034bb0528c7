from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson, InvalidParam, MatrixError
from homeserver.model import account_data
from homeserver.model.account_data import (
    check_settable,
    check_tag,
    check_tag_name,
    read_ignored_users,
    read_tags,
    with_direct_successor,
    with_tag,
    without_tag,
)

ALICE, BOB = "@alice:a.example", "@bob:a.example"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("data_type", ["m.fully_read", "m.push_rules"])
def test_types_of_the_server_cannot_be_set(data_type: str) -> None:
    with pytest.raises(MatrixError) as raised:
        check_settable(data_type, {})
    assert (405, "M_BAD_JSON") == (raised.value.status, raised.value.errcode)


@pytest.mark.parametrize("data_type", ["m.direct", "m.tag", "m.marked_unread", "x" * 255])
def test_other_types_can_be_set(data_type: str) -> None:
    assert {"a": 1} == check_settable(data_type, {"a": 1})


@pytest.mark.parametrize(
    ("data_type", "content", "error"),
    [
        ("m.direct", [], BadJson),
        ("m.direct", None, BadJson),
        ("", {}, InvalidParam),
        ("ä" * 128, {}, InvalidParam),
        ("a\x00", {}, InvalidParam),
    ],
)
def test_bad_account_data_is_refused(data_type: str, content: Any, error: type[MatrixError]) -> None:
    with pytest.raises(error):
        check_settable(data_type, content)


@pytest.mark.parametrize("body", [{}, {"order": 0}, {"order": 1}, {"order": 0.25}, {"order": None}, {"x": []}])
def test_tags_are_taken_as_they_are(body: dict[str, Any]) -> None:
    assert body == check_tag(body)


@pytest.mark.parametrize("order", [-0.1, 1.1, "0.5", True, [], float("nan")])
def test_the_order_of_a_tag_is_a_number_from_0_to_1(order: Any) -> None:
    with pytest.raises(InvalidParam):
        check_tag({"order": order})


def test_a_tag_is_an_object() -> None:
    with pytest.raises(BadJson):
        check_tag([])


@pytest.mark.parametrize("tag", ["", "x" * 256, "ä" * 128, "a\x00"])
def test_bad_tag_names_are_refused(tag: str) -> None:
    with pytest.raises(InvalidParam):
        check_tag_name(tag)


def test_tags_are_set_and_left_out() -> None:
    content = with_tag(with_tag(None, check_tag_name("u.work"), {"order": 0.5}), "m.favourite", {})
    assert {"u.work": {"order": 0.5}, "m.favourite": {}} == read_tags(content)
    assert {"tags": {"m.favourite": {}}} == without_tag(content, "u.work")
    assert content == without_tag(content, "nothing")


@pytest.mark.parametrize("content", [None, {}, {"tags": []}, {"tags": {"a": 1}}])
def test_tags_of_another_shape_are_left_out(content: dict[str, Any] | None) -> None:
    assert {} == read_tags(content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, set()),
        ({}, set()),
        ({"ignored_users": [BOB]}, set()),
        ({"ignored_users": {BOB: {}, "bob": {}, "": {}, ALICE: {}}}, {BOB}),
        ({"ignored_users": {BOB: None}}, {BOB}),
    ],
)
def test_ignored_users_are_read(content: dict[str, Any] | None, expected: set[str]) -> None:
    assert expected == read_ignored_users(content, ALICE)


def test_the_number_of_ignored_users_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_data, "MAX_IGNORED_USERS", 2)
    users = {f"@u{number}:a": {} for number in range(5)}
    assert 2 == len(read_ignored_users({"ignored_users": users}, ALICE))


@given(JSON, st.text(max_size=4))
def test_any_json_is_taken_or_refused(value: Any, name: str) -> None:
    for check in (check_tag, lambda each: check_tag({"order": each}), lambda each: check_settable(name, each)):
        try:
            check(value)
        except MatrixError:
            pass
    read_tags({"tags": value})
    read_ignored_users({"ignored_users": value}, ALICE)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({ALICE: ["!old"], BOB: ["!x", "!old"]}, {ALICE: ["!old", "!new"], BOB: ["!x", "!old", "!new"]}),
        ({ALICE: ["!old", "!new"]}, None),
        ({ALICE: ["!x"], BOB: "!old", "odd": {"!old": 1}}, None),
        ({}, None),
    ],
)
def test_a_direct_chat_has_its_successor_beside_it(content: dict[str, Any], expected: dict[str, Any] | None) -> None:
    assert expected == with_direct_successor(content, "!old", "!new")


@given(content=st.dictionaries(st.text(max_size=8), JSON, max_size=3))
def test_odd_direct_chats_are_left_as_they_are(content: dict[str, Any]) -> None:
    assert with_direct_successor(content, "!old", "!new") is None or "!old" in str(content)
