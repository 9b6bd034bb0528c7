"""Events, states and history through the doors for other servers."""

from __future__ import annotations

from typing import Any, Final

import pytest
import pytest_twisted

from homeserver.model.event import Event
from homeserver.model.ids import UserID
from tests.support.elsewhere import ALICE, BOB, Elsewhere
from tests.support.rooms import SERVER

from .answering import AnsweringServer

ZOE: Final = UserID(f"@zoe:{SERVER}")

ENDPOINTS: Final = {
    "event": ("GET", "event/{event}", {}, None),
    "state": ("GET", "state/{room}", {"event_id": "{event}"}, None),
    "state_ids": ("GET", "state_ids/{room}", {"event_id": "{event}"}, None),
    "event_auth": ("GET", "event_auth/{room}/{event}", {}, None),
    "backfill": ("GET", "backfill/{room}", {"v": "{event}", "limit": "10"}, None),
    "get_missing_events": (
        "POST",
        "get_missing_events/{room}",
        {},
        {"latest_events": ["{event}"], "earliest_events": []},
    ),
    "timestamp_to_event": ("GET", "timestamp_to_event/{room}", {"ts": "0", "dir": "f"}, None),
}


async def _room(server: AnsweringServer, *, name: str = "room") -> tuple[Elsewhere, Event]:
    elsewhere = Elsewhere("12", name)
    elsewhere.join(ZOE)
    elsewhere.join(BOB)
    event = elsewhere.say(ALICE, "the text")
    await elsewhere.all_to(server)
    return elsewhere, event


async def _ask(
    server: AnsweringServer, origin: str | None, endpoint: str, room_id: str, event_id: str
) -> tuple[int, bytes]:
    method, path, query, content = ENDPOINTS[endpoint]

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{room}", room_id).replace("{event}", event_id)
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        return [fill(inner) for inner in value] if isinstance(value, list) else value

    # What is in the path is quoted by segments, and no ID of these tests has a slash.
    return await server.ask_bytes(origin, method, fill(path), fill(content), fill(query))


@pytest.mark.in_turns
@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest_twisted.ensureDeferred
async def test_who_does_not_sign_is_told_nothing(answering: AnsweringServer, endpoint: str) -> None:
    elsewhere, event = await _room(answering)
    assert 401 == (await _ask(answering, None, endpoint, elsewhere.room_id, event.event_id))[0]


@pytest.mark.in_turns
@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest_twisted.ensureDeferred
async def test_a_stranger_is_told_the_same_of_known_and_unknown(
    answering: AnsweringServer,
    endpoint: str,
) -> None:
    elsewhere, event = await _room(answering)
    expected = await _ask(answering, "c.example", endpoint, "!unknown:a.example", "$unknown")
    assert (404 if endpoint == "event" else 403) == expected[0]
    assert expected == await _ask(answering, "c.example", endpoint, elsewhere.room_id, event.event_id)


@pytest_twisted.ensureDeferred
async def test_a_server_in_the_room_is_answered_in_the_forms_of_the_spec(
    answering: AnsweringServer,
) -> None:
    elsewhere, event = await _room(answering)
    room_id, event_id = elsewhere.room_id, event.event_id
    wire = dict(event.wire)
    head = {"origin": SERVER, "origin_server_ts": answering.clock.now_ms()}
    assert (200, {**head, "pdus": [wire]}) == await answering.ask("b.example", "GET", f"event/{event_id}")
    status, answer = await answering.ask(
        "b.example", "GET", f"backfill/{room_id}", query={"v": [event_id, "$unknown"], "limit": 2}
    )
    assert (200, {*head, "pdus"}) == (status, answer.keys())
    assert [wire, dict(elsewhere.events[-2].wire)] == answer["pdus"]
    status, state = await answering.ask("b.example", "GET", f"state/{room_id}", query={"event_id": event_id})
    assert (200, {"pdus", "auth_chain"}) == (status, state.keys())
    status, ids = await answering.ask("b.example", "GET", f"state_ids/{room_id}", query={"event_id": event_id})
    assert (200, {"pdu_ids", "auth_chain_ids"}) == (status, ids.keys())
    by_id = {str(each.event_id): dict(each.wire) for each in elsewhere.events}
    assert [by_id[each] for each in ids["pdu_ids"]] == state["pdus"]
    assert [by_id[each] for each in ids["auth_chain_ids"]] == state["auth_chain"]
    status, auth = await answering.ask("b.example", "GET", f"event_auth/{room_id}/{event_id}")
    assert (200, {"auth_chain"}) == (status, auth.keys())
    body = {"latest_events": [event_id], "earliest_events": [elsewhere.create.event_id], "limit": 2}
    status, missing = await answering.ask("b.example", "POST", f"get_missing_events/{room_id}", body)
    assert (200, {"events": [dict(each.wire) for each in elsewhere.events[-3:-1]]}) == (status, missing)
    status, timed = await answering.ask(
        "b.example", "GET", f"timestamp_to_event/{room_id}", query={"ts": event.origin_server_ts, "dir": "b"}
    )
    assert (200, {"event_id": event_id, "origin_server_ts": event.origin_server_ts}) == (status, timed)


BAD: Final = {
    "a room ID that is none": ("GET", "backfill/room", {"v": "$a", "limit": 1}, None),
    "an event ID that is none": ("GET", "event/event", {}, None),
    "no event": ("GET", "state/!room:a.example", {}, None),
    "nothing to begin at": ("GET", "backfill/!room:a.example", {"limit": 1}, None),
    "no limit": ("GET", "backfill/!room:a.example", {"v": "$a"}, None),
    "a limit below 0": ("GET", "backfill/!room:a.example", {"v": "$a", "limit": -1}, None),
    "a limit that is none": ("GET", "backfill/!room:a.example", {"v": "$a", "limit": "many"}, None),
    "no direction": ("GET", "timestamp_to_event/!room:a.example", {"ts": 1}, None),
    "another direction": ("GET", "timestamp_to_event/!room:a.example", {"ts": 1, "dir": "up"}, None),
    "no time": ("GET", "timestamp_to_event/!room:a.example", {"dir": "f"}, None),
    "no lists": ("POST", "get_missing_events/!room:a.example", {}, {}),
    "lists of numbers": (
        "POST",
        "get_missing_events/!room:a.example",
        {},
        {"latest_events": [1], "earliest_events": []},
    ),
    "texts that are no IDs": (
        "POST",
        "get_missing_events/!room:a.example",
        {},
        {"latest_events": ["x"], "earliest_events": []},
    ),
    "more events than anybody has": (
        "POST",
        "get_missing_events/!room:a.example",
        {},
        {"latest_events": ["$x"] * 1001, "earliest_events": []},
    ),
    "a limit that is text": (
        "POST",
        "get_missing_events/!room:a.example",
        {},
        {"latest_events": [], "earliest_events": [], "limit": "10"},
    ),
    "a depth below what JSON has": (
        "POST",
        "get_missing_events/!room:a.example",
        {},
        {"latest_events": [], "earliest_events": [], "min_depth": -(2**60)},
    ),
}


@pytest.mark.in_turns
@pytest.mark.parametrize("case", BAD)
@pytest_twisted.ensureDeferred
async def test_bad_questions_are_refused(answering: AnsweringServer, case: str) -> None:
    method, path, query, content = BAD[case]
    assert 400 == (await answering.ask("b.example", method, path, content, query))[0]
