"""Filters restrict what they name and nothing else, and are read strictly."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadIdentifier, BadJson, MatrixError, TooLarge
from homeserver.model.filters import EventFilter, Filter, RoomEventFilter, project

ROOM, OTHER_ROOM = "!room:a.example", "!other:a.example"
ALICE, BOB = "@alice:a.example", "@bob:a.example"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["limit", "types", "not_types", "senders", "rooms", "contains_url", "lazy_load_members", "related_by_senders"]
)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({}, True),
        ({"types": ["m.room.message"]}, True),
        ({"types": ["m.room.*"]}, True),
        ({"types": ["m.room.?essage"]}, False),
        ({"types": ["m.room.name", "x.*"]}, False),
        ({"types": []}, False),
        ({"not_types": ["m.room.message"]}, False),
        ({"not_types": ["*.message"]}, False),
        ({"not_types": ["m.room.name"]}, True),
        ({"types": ["m.room.message"], "not_types": ["m.*"]}, False),
        ({"senders": [ALICE]}, True),
        ({"senders": [BOB]}, False),
        ({"senders": []}, False),
        ({"not_senders": [ALICE]}, False),
        ({"senders": [ALICE], "not_senders": [ALICE]}, False),
        ({"rooms": [ROOM]}, True),
        ({"rooms": [OTHER_ROOM]}, False),
        ({"rooms": []}, False),
        ({"not_rooms": [ROOM]}, False),
        ({"not_rooms": [OTHER_ROOM]}, True),
        ({"rooms": [ROOM], "not_rooms": [ROOM]}, False),
        ({"contains_url": True}, True),
        ({"contains_url": False}, False),
        ({"contains_url": None, "types": None, "limit": None, "unknown": []}, True),
    ],
)
def test_an_event_is_wanted_as_the_spec_says(source: dict[str, Any], expected: bool) -> None:
    wanted = RoomEventFilter.parse(source)
    assert expected == wanted.matches_event("m.room.message", ALICE, ROOM, {"url": "mxc://a/b"})


def test_an_event_without_url_is_wanted_the_other_way_round() -> None:
    assert not RoomEventFilter.parse({"contains_url": True}).matches_event("m", ALICE, ROOM, {})
    assert RoomEventFilter.parse({"contains_url": False}).matches_event("m", ALICE, ROOM, {})


@pytest.mark.parametrize(
    ("source", "pass_all", "nothing"),
    [
        ({}, True, False),
        ({"limit": 5, "lazy_load_members": True, "not_types": [], "not_senders": [], "not_rooms": []}, True, False),
        ({"types": []}, False, True),
        ({"not_types": ["*"]}, False, True),
        ({"rooms": []}, False, True),
        ({"senders": [ALICE], "not_senders": [ALICE, BOB]}, False, True),
        ({"types": ["m"]}, False, False),
        ({"contains_url": False}, False, False),
        ({"not_rooms": [ROOM]}, False, False),
    ],
)
def test_filters_that_need_no_test_are_known(source: dict[str, Any], pass_all: bool, nothing: bool) -> None:
    wanted = RoomEventFilter.parse(source)
    assert (pass_all, nothing) == (wanted.is_pass_all, wanted.accepts_nothing)


def test_what_nobody_sent_is_wanted_unless_senders_are_named() -> None:
    assert EventFilter.parse({"not_senders": [ALICE]}).matches("m.tag", None)
    assert not EventFilter.parse({"senders": [ALICE]}).matches("m.tag", None)
    assert not EventFilter.parse({"types": []}).matches("m.tag", None)
    assert EventFilter.parse({}).matches("m.tag", None)


@pytest.mark.parametrize(
    ("source", "expected"),
    [({}, True), ({"types": []}, False), ({"types": ["n"]}, False), ({"not_types": ["m"]}, False)],
)
def test_a_type_alone_can_be_asked_about(source: dict[str, Any], expected: bool) -> None:
    assert expected == EventFilter.parse(source).matches_type("m")


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, None), (0, 1), (1, 1), (1000, 1000), (1001, 1000), (10**30, 1000)]
)
def test_the_limit_is_between_one_and_the_maximum(limit: int | None, expected: int | None) -> None:
    assert expected == EventFilter.parse({"limit": limit}).limit


def test_the_maximum_can_be_set() -> None:
    source = {"room": {"timeline": {"limit": 50}}}
    assert 20 == Filter.parse(source, max_limit=20).timeline.limit


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ([], BadJson),
        ({"presence": "not_an_object"}, BadJson),
        ({"room": []}, BadJson),
        ({"room": {"timeline": 1}}, BadJson),
        ({"room": {"include_leave": "yes"}}, BadJson),
        ({"room": {"rooms": ["not_a_room_id"]}}, BadIdentifier),
        ({"room": {"timeline": {"rooms": ["not_a_room_id"]}}}, BadIdentifier),
        ({"room": {"timeline": {"senders": ["not_a_sender_id"]}}}, BadIdentifier),
        ({"room": {"timeline": {"types": "m.room.message"}}}, BadJson),
        ({"room": {"timeline": {"types": [1]}}}, BadJson),
        ({"room": {"timeline": {"types": ["x" * 256]}}}, BadJson),
        ({"room": {"timeline": {"types": ["x"] * 1001}}}, TooLarge),
        ({"room": {"timeline": {"types": [f"{i}*" for i in range(65)]}}}, TooLarge),
        ({"room": {"timeline": {"limit": -1}}}, BadJson),
        ({"room": {"timeline": {"limit": 1.5}}}, BadJson),
        ({"room": {"timeline": {"limit": True}}}, BadJson),
        ({"room": {"timeline": {"limit": "5"}}}, BadJson),
        ({"event_format": "xml"}, BadJson),
        ({"event_format": []}, BadJson),
        ({"event_fields": "type"}, BadJson),
        ({"event_fields": [1]}, BadJson),
        ({"event_fields": ["x" * 513]}, BadJson),
        ({"event_fields": ["x"] * 65}, TooLarge),
    ],
)
def test_a_malformed_filter_is_refused(source: Any, error: type[MatrixError]) -> None:
    with pytest.raises(error):
        Filter.parse(source)


def test_every_part_of_the_example_of_the_spec_is_read() -> None:
    source = {
        "room": {
            "state": {"types": ["m.room.*"], "not_rooms": [OTHER_ROOM], "lazy_load_members": True},
            "timeline": {"limit": 10, "types": ["m.room.message"], "unread_thread_notifications": True},
            "ephemeral": {"types": ["m.receipt", "m.typing"]},
            "account_data": {"include_redundant_members": True},
            "rooms": [ROOM, OTHER_ROOM],
            "not_rooms": [OTHER_ROOM],
            "include_leave": True,
        },
        "presence": {"types": ["m.presence"], "not_senders": [ALICE]},
        "account_data": {"types": []},
        "event_format": "federation",
        "event_fields": ["type", "content", "sender"],
    }
    wanted = Filter.parse(source)
    assert source == wanted.to_json()
    assert wanted.state.lazy_load_members
    assert (10, True) == (wanted.timeline.limit, wanted.timeline.unread_thread_notifications)
    assert wanted.ephemeral.matches_type("m.typing")
    assert wanted.room_account_data.include_redundant_members
    assert wanted.include_leave
    assert (True, False) == (wanted.accepts_room(ROOM), wanted.accepts_room(OTHER_ROOM))
    assert not wanted.presence.matches("m.presence", ALICE)
    assert wanted.account_data.accepts_nothing
    assert "federation" == wanted.event_format


def test_relations_are_left_to_the_caller() -> None:
    wanted = RoomEventFilter.parse({"related_by_rel_types": ["m.thread"], "related_by_senders": [ALICE]})
    assert wanted.is_by_relation
    assert wanted.is_pass_all
    assert frozenset({"m.thread"}) == wanted.related_by_rel_types
    assert not RoomEventFilter().is_by_relation


def test_the_default_filter_restricts_nothing() -> None:
    wanted = Filter.default()
    assert wanted == Filter.parse({})
    assert {} == wanted.to_json()
    parts = (wanted.timeline, wanted.state, wanted.ephemeral, wanted.room_account_data, wanted.presence)
    assert all(part.is_pass_all for part in parts)
    event = {"type": "m"}
    assert wanted.project(event) is event


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["type"], {"type": "m"}),
        (["content.body"], {"content": {"body": "b"}}),
        (["content.body", "content.a\\.b.c"], {"content": {"body": "b", "a.b": {"c": 1}}}),
        (["content.a.b.c"], {}),
        (["content", "content.body"], {"content": {"body": "b", "a.b": {"c": 1, "d": 2}}}),
        (["content.body.x", "type.y", "nothing"], {}),
        ([], {}),
    ],
)
def test_only_the_fields_wanted_are_kept(fields: list[str], expected: dict[str, Any]) -> None:
    event = {"type": "m", "content": {"body": "b", "a.b": {"c": 1, "d": 2}}}
    before = {"type": "m", "content": {"body": "b", "a.b": {"c": 1, "d": 2}}}
    assert expected == Filter.parse({"event_fields": fields}).project(event)
    assert before == event


def test_a_field_of_null_is_kept() -> None:
    assert {"a": None} == project({"a": None}, [("a",)])


@given(
    st.dictionaries(st.sampled_from(["event_fields", "event_format", "presence"]), JSON)
    | st.dictionaries(st.just("room"), st.dictionaries(st.sampled_from(["timeline", "rooms", "include_leave"]), JSON))
    | JSON
)
def test_any_json_is_a_filter_or_refused(source: Any) -> None:
    try:
        wanted = Filter.parse(source)
    except MatrixError:
        return
    assert wanted == Filter.parse(wanted.to_json())
    wanted.project({"content": {"body": 1}})


@given(st.dictionaries(KEYS, JSON | st.lists(st.sampled_from([ALICE, ROOM, "m", "*"]), max_size=2)))
def test_quick_answers_agree_with_the_whole_test(source: dict[str, Any]) -> None:
    try:
        wanted = RoomEventFilter.parse(source)
    except MatrixError:
        return
    matches = wanted.matches_event("m", ALICE, ROOM, {})
    assert not (wanted.is_pass_all and not matches)
    assert not (wanted.accepts_nothing and matches)


def test_equal_filters_are_equal_whatever_is_in_them() -> None:
    source = {"types": ["m.*", "a"], "not_types": ["*x"]}
    assert EventFilter.parse(source) == EventFilter.parse(source)
    assert EventFilter.parse(source) != EventFilter.parse({**source, "not_types": ["*y"]})
