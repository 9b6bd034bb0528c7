"""Pages, context and single events as members get them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from sqlalchemy import update

from homeserver.model.tokens import PaginationToken, StreamToken
from homeserver.rooms import history
from storage.tables.rooms import events
from tests.support.room_reads import RoomReads, bodies
from tests.support.rooms import Person, RoomServer

ONLY_MESSAGES = {"types": ["m.room.message"]}


async def walk(reads: RoomReads, person: Person, room: str, query: dict[str, Any], most: int = 50) -> list[list[str]]:
    """Return the bodies of all pages, to the one without an end."""
    pages = []
    for _ in range(most):
        _, page = await reads.room(person, room, "messages", query)
        pages.append(bodies(page["chunk"]))
        if "end" not in page:
            return pages
        query = {**query, "from": page["end"]}
    raise AssertionError(f"no end after {pages}")


@pytest_twisted.ensureDeferred
async def test_pages_cover_the_timeline_once_in_both_directions(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    texts = [f"m{number}" for number in range(7)]
    for text in texts:
        await rooms.say(room, alice, text)
    reads = RoomReads(rooms)
    for is_cold in (False, True):
        if is_cold:
            rooms.forget_memory()
        backwards = await walk(reads, alice, room, {"dir": "b", "limit": 3})
        forwards = await walk(reads, alice, room, {"dir": "f", "limit": 3})
        assert texts[::-1] == [text for page in backwards for text in page]
        assert texts == [text for page in forwards for text in page]


@pytest_twisted.ensureDeferred
async def test_a_damaged_event_is_left_out_and_the_rest_is_shown(
    rooms: RoomServer, caplog: pytest.LogCaptureFixture
) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    _, damaged, _ = [await rooms.say(room, alice, text) for text in ("m0", "m1", "m2")]
    change = update(events).where(events.c.event_nid == damaged.nid).values(json=b"{{")
    await rooms.store.database.write(lambda tx: tx.execute(change).rowcount)
    rooms.forget_memory()
    shown = await walk(RoomReads(rooms), alice, room, {"dir": "f", "filter": ONLY_MESSAGES})
    assert ["m0", "m2"] == [text for page in shown for text in page if text]
    assert f"{damaged.event_id} of {room} is damaged" in caplog.text


@pytest_twisted.ensureDeferred
async def test_the_end_is_absent_exactly_when_nothing_follows(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    said = [await rooms.say(room, alice, f"m{number}") for number in range(4)]
    reads = RoomReads(rooms)
    before = str(PaginationToken((said[0].position or 0) - 1))
    _, full = await reads.room(alice, room, "messages", {"dir": "f", "from": before, "limit": 4})
    _, part = await reads.room(alice, room, "messages", {"dir": "f", "from": before, "limit": 3})
    _, bounded = await reads.room(
        alice, room, "messages", {"dir": "b", "to": str(PaginationToken(said[1].position or 0)), "limit": 2}
    )
    assert (["m0", "m1", "m2", "m3"], False) == (bodies(full["chunk"]), "end" in full)
    assert (["m0", "m1", "m2"], True) == (bodies(part["chunk"]), "end" in part)
    assert (["m3", "m2"], False) == (bodies(bounded["chunk"]), "end" in bounded)
    assert before == full["start"]


@pytest_twisted.ensureDeferred
async def test_tokens_of_sync_are_gaps_in_the_timeline(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    await rooms.say(room, alice, "before")
    token = str(StreamToken(rooms.feed.watermark))
    await rooms.say(room, alice, "after")
    reads = RoomReads(rooms)
    _, older = await reads.room(alice, room, "messages", {"dir": "b", "from": token, "filter": ONLY_MESSAGES})
    _, newer = await reads.room(alice, room, "messages", {"dir": "f", "from": token})
    assert (["before"], ["after"]) == (bodies(older["chunk"]), bodies(newer["chunk"]))


@pytest.mark.parametrize("direction", ["b", "f"])
@pytest_twisted.ensureDeferred
async def test_a_page_of_invisible_events_still_advances(
    rooms: RoomServer, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hostile input 47: whoever goes on gets to the end, and past what may not be seen."""
    monkeypatch.setattr(history, "MAX_SCANNED", 4)
    monkeypatch.setattr(history, "_BATCH", 2)
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, visibility="joined")
    for number in range(12):
        await rooms.say(room, alice, f"hidden {number}")
    await rooms.join(room, bob)
    await rooms.say(room, alice, "visible")
    reads = RoomReads(rooms)
    pages = await walk(reads, bob, room, {"dir": direction, "limit": 1})
    assert ["visible"] == [text for page in pages for text in page]
    filtered = await walk(reads, alice, room, {"dir": direction, "limit": 5, "filter": {"types": ["m.nothing"]}})
    assert [] == [text for page in filtered for text in page]


@pytest_twisted.ensureDeferred
async def test_filters_choose_events_and_their_form(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    await rooms.say(room, alice, "of alice")
    picture = await rooms.say(room, bob, "of bob", url="mxc://example.org/a")
    await rooms.relate(room, alice, picture, "m.thread", "reply")
    reads = RoomReads(rooms)

    async def found(wanted: dict[str, Any]) -> list[str]:
        _, page = await reads.room(alice, room, "messages", {"dir": "b", "limit": 50, "filter": wanted})
        return bodies(page["chunk"])

    assert ["reply", "of alice"] == await found({"senders": [str(alice.user_id)], **ONLY_MESSAGES})
    assert ["of bob"] == await found({"contains_url": True})
    assert [] == await found({"not_rooms": [room]})
    assert ["of bob"] == await found({"related_by_rel_types": ["m.thread"]})
    assert ["of bob"] == await found({"related_by_senders": [str(alice.user_id)]})
    assert [] == await found({"related_by_senders": [str(bob.user_id)]})
    _, fields = await reads.room(
        alice, room, "messages", {"dir": "b", "limit": 1, "filter": {"event_fields": ["content.body", "type"]}}
    )
    assert [{"type": "m.room.message", "content": {"body": "reply"}}] == fields["chunk"]
    _, wire = await reads.room(
        alice, room, "messages", {"dir": "b", "limit": 1, "filter": {"event_format": "federation"}}
    )
    assert "prev_events" in wire["chunk"][0]


@pytest_twisted.ensureDeferred
async def test_lazy_loading_tells_the_senders_of_the_page(rooms: RoomServer) -> None:
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room = await rooms.room(alice, members=[bob, carol])
    said = await rooms.say(room, bob, "hi")
    reads = RoomReads(rooms)
    lazy = {"lazy_load_members": True, **ONLY_MESSAGES}
    _, page = await reads.room(alice, room, "messages", {"dir": "b", "filter": lazy})
    _, plain = await reads.room(alice, room, "messages", {"dir": "b"})
    _, context = await reads.room(
        alice, room, f"context/{quote(said.event_id)}", {"filter": {"lazy_load_members": True}, "limit": 0}
    )
    assert [str(bob.user_id)] == [event["state_key"] for event in page["state"]]
    assert "state" not in plain
    members = [event["state_key"] for event in context["state"] if event["type"] == "m.room.member"]
    assert [str(bob.user_id)] == members
    assert "m.room.create" in {event["type"] for event in context["state"]}


@pytest_twisted.ensureDeferred
async def test_context_splits_its_limit_and_gives_tokens_to_go_on(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    said = [await rooms.say(room, alice, f"m{number}") for number in range(9)]
    reads = RoomReads(rooms)
    _, context = await reads.room(alice, room, f"context/{quote(said[4].event_id)}", {"limit": 4})
    assert ["m3", "m2"] == bodies(context["events_before"])
    assert ["m5", "m6"] == bodies(context["events_after"])
    assert "m4" == context["event"]["content"]["body"]
    _, older = await reads.room(alice, room, "messages", {"dir": "b", "from": context["start"], "limit": 2})
    _, newer = await reads.room(alice, room, "messages", {"dir": "f", "from": context["end"], "limit": 2})
    assert (["m1", "m0"], ["m7", "m8"]) == (bodies(older["chunk"]), bodies(newer["chunk"]))
    _, alone = await reads.room(alice, room, f"context/{quote(said[4].event_id)}", {"limit": 0})
    assert ([], []) == (alone["events_before"], alone["events_after"])


@pytest_twisted.ensureDeferred
async def test_messages_of_ignored_users_are_left_out_but_not_their_state(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    said = await rooms.say(room, bob, "noise")
    await rooms.say(room, alice, "signal")
    reads = RoomReads(rooms)
    reads.ignored[alice.user_id] = frozenset({str(bob.user_id)})
    _, page = await reads.room(alice, room, "messages", {"dir": "b", "limit": 50})
    _, context = await reads.room(alice, room, f"context/{quote(said.event_id)}", {"limit": 20})
    assert ["signal"] == bodies(page["chunk"])
    assert str(bob.user_id) in {event.get("state_key") for event in page["chunk"]}
    assert "noise" == context["event"]["content"]["body"]


@pytest_twisted.ensureDeferred
async def test_only_the_sending_device_is_told_its_transaction_id(rooms: RoomServer) -> None:
    alice = await rooms.user("alice", device_nid=77)
    other = await rooms.user("alice", device_nid=78)
    room = await rooms.room(alice)
    said = await rooms.send(room, alice, "m.room.message", {"body": "x"}, txn_id="one")
    reads = RoomReads(rooms)
    for is_cold in (False, True):
        if is_cold:
            rooms.forget_memory()
        _, mine = await reads.room(alice, room, f"event/{quote(said.event_id)}")
        _, others = await reads.room(other, room, f"event/{quote(said.event_id)}")
        assert ("one", room, "join") == (
            mine["unsigned"]["transaction_id"],
            mine["room_id"],
            mine["unsigned"]["membership"],
        )
        assert "transaction_id" not in others["unsigned"]


@pytest_twisted.ensureDeferred
async def test_a_redacted_event_is_read_redacted(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    said = await rooms.say(room, alice, "secret")
    redaction = await rooms.redact(room, alice, said)
    reads = RoomReads(rooms)
    _, event = await reads.room(alice, room, f"event/{quote(said.event_id)}")
    assert ({}, redaction.event_id) == (event["content"], event["unsigned"]["redacted_because"]["event_id"])


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"dir": "x"}, "M_INVALID_PARAM"),
        ({"dir": "b", "from": "garbage"}, "M_INVALID_PARAM"),
        ({"dir": "b", "from": "s99999999999999999999"}, "M_INVALID_PARAM"),
        ({"dir": "b", "limit": "-1"}, "M_INVALID_PARAM"),
        ({"dir": "b", "limit": "ten"}, "M_INVALID_PARAM"),
        ({"dir": "b", "filter": "{"}, "M_NOT_JSON"),
        ({"dir": "b", "filter": "[]"}, "M_BAD_JSON"),
        ({"dir": "b", "filter": '{"types":5}'}, "M_BAD_JSON"),
        ({"dir": "b", "filter": '{"a":' * 300 + "1" + "}" * 300}, "M_BAD_JSON"),
        ({"dir": "b", "filter": '{"limit":1.5}'}, "M_BAD_JSON"),
    ],
    ids=str,
)
@pytest_twisted.ensureDeferred
async def test_parameters_that_are_wrong_are_refused(rooms: RoomServer, query: dict[str, Any], errcode: str) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    status, answer = await RoomReads(rooms).room(alice, room, "messages", query)
    assert (400, errcode) == (status, answer["errcode"])


@pytest.mark.in_turns
@pytest.mark.parametrize("token", ["s0", "p-9223372036854775807", "p9223372036854775807", "s9223372036854775807"])
@pytest_twisted.ensureDeferred
async def test_tokens_from_outside_the_timeline_are_answered(rooms: RoomServer, token: str) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    for direction in ("b", "f"):
        status, _ = await RoomReads(rooms).room(alice, room, "messages", {"dir": direction, "from": token})
        assert 200 == status


@pytest_twisted.ensureDeferred
async def test_the_event_of_a_time_is_the_closest_visible_one(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, visibility="joined")
    hidden = await rooms.say(room, alice, "hidden")
    await rooms.join(room, bob)
    shown = await rooms.say(room, alice, "shown")
    reads = RoomReads(rooms)

    async def at(person: Person, ts: int, direction: str) -> tuple[int, Any]:
        status, answer = await reads.room(
            person, room, "timestamp_to_event", {"ts": ts, "dir": direction}, version="v1"
        )
        return status, answer.get("event_id")

    ts = hidden.event.origin_server_ts
    assert (200, hidden.event_id) == await at(alice, ts, "f")
    assert (200, hidden.event_id) == await at(alice, ts, "b")
    assert (200, shown.event_id) == await at(bob, shown.event.origin_server_ts + 5, "b")
    assert (404, None) == await at(alice, shown.event.origin_server_ts + 5, "f")
    # What was before the setting was shared then; what is after it is passed over.
    setting = await rooms.door.state_event(room, "m.room.history_visibility")
    assert setting is not None
    assert (200, setting.event_id) == await at(bob, ts, "b")


@pytest_twisted.ensureDeferred
async def test_an_event_is_found_without_its_room(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice)
    said = await rooms.say(room, alice, "hi")
    reads = RoomReads(rooms)
    status, event = await reads.get(alice, f"/v3/events/{quote(said.event_id)}")
    assert (200, "hi") == (status, event["content"]["body"])
    assert (await reads.raw(bob, "/v3/events/$unknown")) == (await reads.raw(bob, f"/v3/events/{quote(said.event_id)}"))
