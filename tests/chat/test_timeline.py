from __future__ import annotations

from typing import Any

import pytest

from homeserver.chat import timeline as timelines
from homeserver.chat.timeline import FROM_NEWEST, Message, Notice, Timeline, parse_event, parse_events

from .played import ALICE, BOB, edit, event, parsed, reaction, redaction


def _timeline(*events: dict[str, Any]) -> Timeline:
    timeline = Timeline()
    timeline.add(parse_events(list(events)), older="p1", is_limited=False)
    return timeline


def _bodies(timeline: Timeline) -> list[object]:
    return [item.content.get("body") for item in timeline.items if isinstance(item, Message)]


def _ids(timeline: Timeline) -> list[str]:
    return [item.event.event_id for item in timeline.items if isinstance(item, Message)]


def test_edit_changes_its_message_and_is_no_line() -> None:
    assert ["new"] == _bodies(_timeline(event("$1", "old"), edit("$2", "$1", "new")))


def test_last_edit_counts_whatever_the_order_of_arrival() -> None:
    assert ["third"] == _bodies(
        _timeline(event("$1"), edit("$3", "$1", "third", ts_ms=30), edit("$2", "$1", "second", ts_ms=20))
    )


@pytest.mark.parametrize(
    "wrong",
    [
        edit("$2", "$1", "forged", sender=ALICE),
        edit("$2", "$1", "forged", kind="m.sticker"),
        edit("$2", "$1", "forged", state_key=""),
        event("$2", content={"m.relates_to": {"rel_type": "m.replace", "event_id": "$1"}}),
        event("$2", content={"m.new_content": 1, "m.relates_to": {"rel_type": "m.replace", "event_id": "$1"}}),
    ],
    ids=["other sender", "other type", "state", "no new content", "content is no object"],
)
def test_invalid_edit_changes_nothing(wrong: dict[str, Any]) -> None:
    assert ["old"] == _bodies(_timeline(event("$1", "old"), wrong))


def test_redacted_edit_is_taken_back() -> None:
    assert ["old"] == _bodies(_timeline(event("$1", "old"), edit("$2", "$1", "new"), redaction("$3", "$2")))


def test_redacted_message_has_no_content() -> None:
    timeline = _timeline(event("$1", "secret"), edit("$2", "$1", "more"), redaction("$3", "$1"))
    assert [None] == _bodies(timeline)


def test_redaction_of_older_rooms_names_its_target_at_the_top() -> None:
    assert [None] == _bodies(_timeline(event("$1"), event("$2", kind="m.room.redaction", content={}, redacts="$1")))


def test_message_that_the_server_has_redacted_is_shown_as_such() -> None:
    unsigned = {"redacted_because": redaction("$9", "$1")}
    assert [None] == _bodies(_timeline(event("$1", content={}, unsigned=unsigned)))


def test_edit_that_the_server_bundles_is_applied() -> None:
    unsigned = {"m.relations": {"m.replace": edit("$2", "$1", "new")}}
    assert ["new"] == _bodies(_timeline(event("$1", "old", unsigned=unsigned)))


def test_reactions_are_counted_by_person() -> None:
    timeline = _timeline(
        event("$1"),
        reaction("$2", "$1", "👍", sender=ALICE),
        reaction("$3", "$1", "👍", sender=BOB),
        reaction("$4", "$1", "👍", sender=BOB),
        reaction("$5", "$1", "❤", sender=BOB),
        reaction("$6", "$1", "❤", sender=ALICE),
        reaction("$7", "$1", 3),
        redaction("$8", "$6"),
    )
    message = timeline.find("$1")
    assert message is not None
    assert [("👍", 2), ("❤", 1)] == message.reaction_counts()


def test_what_changes_a_message_waits_for_it() -> None:
    timeline = _timeline(
        edit("$2", "$1", "new"), reaction("$3", "$1", "👍"), event("$5", "last"), redaction("$6", "$4")
    )
    timeline.add_older(parse_events([event("$4", "gone"), event("$1", "old")]), older=None)
    message = timeline.find("$1")
    assert message is not None
    assert (["new", None, "last"], [("👍", 1)]) == (_bodies(timeline), message.reaction_counts())


def test_event_that_comes_twice_is_shown_once() -> None:
    timeline = _timeline(event("$1"), event("$1"), event("$2"))
    assert [] == timeline.add([parsed("$2")], older="p2", is_limited=False)
    assert ["$1", "$2"] == _ids(timeline)


def test_gap_begins_the_timeline_anew() -> None:
    timeline = _timeline(event("$1"))
    timeline.note(Notice("mine"))
    timeline.add([parsed("$8")], older="p8", is_limited=True)
    assert (["$8"], "p8") == (_ids(timeline), timeline.older)


def test_room_told_anew_with_what_is_known_has_no_gap() -> None:
    timeline = _timeline(event("$1"), event("$2"))
    timeline.add([parsed("$2"), parsed("$3")], older="p9", is_limited=True)
    assert (["$1", "$2", "$3"], "p1") == (_ids(timeline), timeline.older)


def test_page_of_history_goes_before_what_is_there() -> None:
    timeline = _timeline(event("$3"))
    count = timeline.add_older([parsed("$3"), parsed("$2"), parsed("$1")], older="p0")
    assert (2, ["$1", "$2", "$3"], "p0") == (count, _ids(timeline), timeline.older)


def test_edit_of_a_known_message_is_told_with_it() -> None:
    timeline = _timeline(event("$1", "old"))
    told = timeline.add([e for e in parse_events([edit("$2", "$1", "new")])], older=None, is_limited=False)
    assert ["new"] == [message.content["body"] for message in told]


def test_long_timeline_is_cut_where_history_can_go_on() -> None:
    timeline = Timeline()
    for number in range(timelines.MAX_ITEMS + 1):
        older = f"p{number}" if number % 100 == 0 else None
        timeline.add([parsed(f"${number}")], older=older, is_limited=False)
    start = timelines.MAX_ITEMS + 1 - timelines.KEPT_ITEMS
    first = -(-start // 100) * 100
    assert (f"${first}", f"p{first}") == (_ids(timeline)[0], timeline.older)


def test_long_timeline_without_a_place_goes_on_from_the_newest() -> None:
    timeline = _timeline()
    timeline.add([parsed(f"${number}") for number in range(timelines.MAX_ITEMS + 1)], older=None, is_limited=False)
    assert (timelines.KEPT_ITEMS, FROM_NEWEST) == (len(timeline.items), timeline.older)


def test_floods_of_reactions_and_edits_are_bounded() -> None:
    timeline = _timeline(event("$1"))
    timeline.add(
        [e for n in range(20_000) for e in parse_events([reaction(f"$r{n}", "$1", str(n))])],
        older=None,
        is_limited=False,
    )
    timeline.add(
        [e for n in range(2000) for e in parse_events([reaction(f"$w{n}", f"$u{n}", "x")])],
        older=None,
        is_limited=False,
    )
    timeline.add(
        [e for n in range(500) for e in parse_events([edit(f"$e{n}", "$1", "x", ts_ms=n)])],
        older=None,
        is_limited=False,
    )
    message = timeline.find("$1")
    assert message is not None
    assert timelines.MAX_REACTIONS == len(message.reactions)
    assert timelines.MAX_EDITS == len(message.edits)
    assert "$e499" in message.edits


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "event",
        {},
        {"event_id": 1, "type": "m.x", "sender": "@a:b"},
        {"event_id": "$1", "type": None, "sender": "@a:b"},
        {"event_id": "$1", "type": "m.x", "sender": ["@a:b"]},
    ],
    ids=["null", "list", "string", "empty", "numeric ID", "no type", "list as sender"],
)
def test_what_is_no_event_is_left_out(raw: object) -> None:
    assert parse_event(raw) is None


@pytest.mark.parametrize("ts", [-1, 2**60, "soon", None, 1.5, True], ids=str)
def test_date_that_cannot_be_shown_is_replaced(ts: object) -> None:
    made = parse_event({"event_id": "$1", "type": "m.x", "sender": "@a:b", "origin_server_ts": ts, "content": 3})
    assert made is not None
    assert 0 <= made.ts_ms < 2**48


@pytest.mark.parametrize(
    "relates",
    [
        1,
        [],
        {"rel_type": "m.replace"},
        {"rel_type": [], "event_id": "$1"},
        {"rel_type": "m.annotation", "event_id": {}},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["m.reaction", "m.room.message", "m.room.redaction"])
def test_malformed_relations_change_nothing(kind: str, relates: object) -> None:
    timeline = _timeline(event("$1", "old"), event("$2", kind=kind, content={"m.relates_to": relates, "redacts": []}))
    message = timeline.find("$1")
    assert message is not None
    assert ("old", {}) == (message.content["body"], message.reactions)
