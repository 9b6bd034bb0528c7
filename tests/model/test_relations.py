"""Relationships: what is one, which thread an event is in, which edits count, what is bundled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadRequest
from homeserver.model.event import Event
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.relations import (
    Annotation,
    Relation,
    ThreadSummary,
    annotation_of,
    bundle_relations,
    check_thread_root,
    find_thread,
    is_valid_edit,
    latest_edit,
    read_relation,
    relation_of,
)

ALICE, BOB = UserID("@alice:a.example"), UserID("@bob:a.example")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def event(event_id: str, content: Mapping[str, Any] | None = None, event_type: str = "m.room.message") -> Event:
    return Event(EventID(event_id), RoomID("!r:a.example"), event_type, ALICE, content or {}, None, 1, 1, (), (), {})


def relating(rel_type: str, event_id: str, **others: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": event_id, **others}}


def edit(event_id: str = "$edit", target: str = "$original", **content: Any) -> Event:
    return event(event_id, {"m.new_content": {"body": "new"}, **relating("m.replace", target), **content})


@pytest.mark.parametrize(
    ("relates_to", "expected"),
    [
        ({"rel_type": "m.thread", "event_id": "$a"}, Relation("m.thread", EventID("$a"), None, False, None)),
        (
            {
                "rel_type": "m.thread",
                "event_id": "$a",
                "is_falling_back": True,
                "m.in_reply_to": {"event_id": "$b"},
            },
            Relation("m.thread", EventID("$a"), None, True, EventID("$b")),
        ),
        (
            {"rel_type": "m.annotation", "event_id": "$a", "key": "👍", "is_falling_back": 1},
            Relation("m.annotation", EventID("$a"), "👍", False, None),
        ),
        ({"m.in_reply_to": {"event_id": "$b"}}, Relation(None, None, None, False, EventID("$b"))),
        (
            {"rel_type": 1, "event_id": "$a", "m.in_reply_to": {"event_id": "$b"}},
            Relation(None, None, None, False, EventID("$b")),
        ),
        ({"rel_type": "m.annotation", "event_id": "$a", "key": 1}, Relation("m.annotation", "$a", None, False, None)),
        ({"rel_type": "m.thread"}, None),
        ({"event_id": "$a"}, None),
        ({"rel_type": "", "event_id": "$a"}, None),
        ({"rel_type": "x" * 256, "event_id": "$a"}, None),
        ({"rel_type": "m.thread", "event_id": "a"}, None),
        ({"rel_type": "m.thread", "event_id": "$" + "a" * 255}, None),
        ({"m.in_reply_to": []}, None),
        ({"m.in_reply_to": {"event_id": 1}}, None),
        ([], None),
        (None, None),
    ],
)
def test_what_does_not_follow_the_schema_is_no_relationship(relates_to: Any, expected: Relation | None) -> None:
    assert expected == read_relation({"m.relates_to": relates_to})


@given(st.dictionaries(st.sampled_from(["rel_type", "event_id", "key", "m.in_reply_to", "is_falling_back"]), JSON))
def test_any_content_is_survived(relates_to: dict[str, Any]) -> None:
    subject = event("$x", {"m.relates_to": relates_to, "m.new_content": relates_to})
    annotation_of(subject)
    is_valid_edit(subject, subject)
    find_thread(relation_of(subject), lambda event_id: relation_of(subject))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("$root", None),
        ("$in_thread", "$root"),
        ("$reaction", "$root"),
        ("$reaction2", "$root"),
        ("$reaction3", "$root"),
        ("$reaction4", None),
        ("$reaction_to_root", None),
        ("$reply", None),
        ("$unknown_parent", None),
        ("$loop", None),
    ],
)
def test_the_thread_is_found_within_three_hops(start: str, expected: str | None) -> None:
    contents = {
        "$root": {},
        "$in_thread": relating("m.thread", "$root"),
        "$reaction": relating("m.annotation", "$in_thread", key="x"),
        "$reaction2": relating("m.reference", "$reaction"),
        "$reaction3": relating("m.reference", "$reaction2"),
        "$reaction4": relating("m.reference", "$reaction3"),
        "$reaction_to_root": relating("m.annotation", "$root", key="x"),
        "$reply": {"m.relates_to": {"m.in_reply_to": {"event_id": "$in_thread"}}},
        "$unknown_parent": relating("m.reference", "$nowhere"),
        "$loop": relating("m.reference", "$loop"),
    }
    relations = {event_id: read_relation(content) for event_id, content in contents.items()}
    assert expected == find_thread(relations[start], lambda event_id: relations.get(event_id))


def test_a_thread_cannot_start_from_a_related_event() -> None:
    check_thread_root(None)
    check_thread_root(read_relation({"m.relates_to": {"m.in_reply_to": {"event_id": "$a"}}}))
    with pytest.raises(BadRequest) as raised:
        check_thread_root(read_relation(relating("m.thread", "$a")))
    assert (400, "M_UNKNOWN") == (raised.value.status, raised.value.errcode)


def test_annotations_are_the_same_by_target_type_and_key() -> None:
    content = relating("m.annotation", "$a", key="👍")
    assert Annotation(EventID("$a"), "m.reaction", "👍") == annotation_of(event("$x", content, "m.reaction"))
    assert annotation_of(event("$x", relating("m.annotation", "$a"))) is None
    assert annotation_of(event("$x", relating("m.reference", "$a", key="x"))) is None
    assert annotation_of(event("$x")) is None


ORIGINAL = event("$original", {"body": "old"})


@pytest.mark.parametrize(
    ("original", "replacement", "expected"),
    [
        pytest.param(ORIGINAL, edit(), True, id="plain"),
        pytest.param(ORIGINAL, edit(target="$other"), False, id="of another event"),
        pytest.param(ORIGINAL, replace(edit(), sender=BOB), False, id="by another"),
        pytest.param(ORIGINAL, replace(edit(), room_id=RoomID("!x:y")), False, id="in another room"),
        pytest.param(ORIGINAL, replace(edit(), type="m.sticker"), False, id="of another type"),
        pytest.param(ORIGINAL, replace(edit(), state_key=""), False, id="is state"),
        pytest.param(replace(ORIGINAL, state_key=""), edit(), False, id="of state"),
        pytest.param(replace(edit("$original", "$x")), edit(), False, id="of an edit"),
        pytest.param(event("$original", relating("m.thread", "$x")), edit(), True, id="in a thread"),
        pytest.param(ORIGINAL, event("$edit", relating("m.replace", "$original")), False, id="no new content"),
        pytest.param(ORIGINAL, event("$edit"), False, id="redacted"),
        pytest.param(
            event("$original", {}, "m.room.encrypted"),
            event("$edit", relating("m.replace", "$original"), "m.room.encrypted"),
            True,
            id="encrypted",
        ),
    ],
)
def test_edits_are_valid_as_the_spec_says(original: Event, replacement: Event, expected: bool) -> None:
    assert expected == is_valid_edit(original, replacement)


def test_the_latest_edit_is_by_time_then_by_id() -> None:
    edits = [
        replace(edit("$a"), origin_server_ts=2),
        replace(edit("$c"), origin_server_ts=2),
        replace(edit("$b"), origin_server_ts=2),
        replace(edit("$d"), origin_server_ts=1),
        replace(edit("$e"), origin_server_ts=3, sender=BOB),
    ]
    assert edits[1] == latest_edit(ORIGINAL, edits)
    assert latest_edit(ORIGINAL, []) is None


def test_the_bundle_has_the_form_of_the_spec() -> None:
    expected = {
        "m.replace": {"event_id": "$edit"},
        "m.thread": {"latest_event": {"event_id": "$t"}, "count": 7, "current_user_participated": True},
        "m.reference": {"chunk": [{"event_id": "$one"}, {"event_id": "$two"}]},
    }
    thread = ThreadSummary({"event_id": "$t"}, 7, True)
    others: dict[str, Any] = {"edit": {"event_id": "$edit"}, "thread": thread, "references": ["$one", "$two"]}
    assert expected == bundle_relations(ORIGINAL, is_redacted=False, **others)
    del expected["m.replace"]
    assert expected == bundle_relations(ORIGINAL, is_redacted=True, **others)
    assert bundle_relations(replace(ORIGINAL, state_key=""), is_redacted=False, **others) is None


def test_there_is_no_empty_bundle() -> None:
    assert bundle_relations(ORIGINAL, is_redacted=False, thread=ThreadSummary({}, 0, True)) is None
