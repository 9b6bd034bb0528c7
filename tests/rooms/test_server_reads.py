"""What other servers are told about rooms: by endpoint, by their own place in the room, by history visibility."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import pytest
import pytest_twisted

from homeserver.errors import LimitExceeded, MatrixError, NotFound
from homeserver.model.event import Event
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.rooms.server_guard import ServerGuard
from homeserver.rooms.server_reads import JsonFile, ServerReads
from storage.accounts import create_account, set_deactivated
from tests.support.elsewhere import ALICE, BOB, START_MS, Elsewhere
from tests.support.rooms import SERVER, RoomServer

ZOE: Final = UserID(f"@zoe:{SERVER}")
ASKING: Final = "b.example"
VISIBILITIES: Final = ("world_readable", "shared", "invited", "joined")
ALL: Final = frozenset(VISIBILITIES)
FOR_MEMBERS: Final = frozenset({"world_readable", "shared"})


class Room:
    """A room of a.example with a user of this server, an event that is asked about, and one after it."""

    def __init__(self, server: RoomServer, name: str, visibility: str = "shared", version: str = "12") -> None:
        self.server = server
        self.elsewhere = Elsewhere(version, name)
        self.elsewhere.join(ZOE)
        self.elsewhere.add("m.room.history_visibility", ALICE, {"history_visibility": visibility}, "")
        self.event: Event | None = None
        self.after: Event | None = None

    def say(self) -> None:
        """Add the event that is asked about."""
        self.event = self.elsewhere.say(ALICE, "the secret")

    async def start(self) -> Room:
        """Have the server take in all."""
        self.after = self.elsewhere.say(ALICE, "after")
        await self.elsewhere.all_to(self.server)
        return self

    @property
    def room_id(self) -> RoomID:
        return self.elsewhere.room_id

    @property
    def event_id(self) -> EventID:
        assert self.event is not None
        return self.event.event_id

    @property
    def after_id(self) -> EventID:
        assert self.after is not None
        return self.after.event_id


Ask = Callable[[ServerReads, RoomID, EventID, EventID], Awaitable[Any]]


async def _event(reads: ServerReads, room_id: RoomID, event_id: EventID, after_id: EventID) -> Any:
    return json.loads(await reads.event(ASKING, event_id))


async def _state(reads: ServerReads, room_id: RoomID, event_id: EventID, after_id: EventID) -> Any:
    return _read(await reads.state(ASKING, room_id, event_id))


async def _state_ids(reads: ServerReads, room_id: RoomID, event_id: EventID, after_id: EventID) -> Any:
    return json.loads(await reads.state_ids(ASKING, room_id, event_id))


async def _event_auth(reads: ServerReads, room_id: RoomID, event_id: EventID, after_id: EventID) -> Any:
    return _read(await reads.event_auth(ASKING, room_id, event_id))


async def _backfill(reads: ServerReads, room_id: RoomID, event_id: EventID, after_id: EventID) -> Any:
    return json.loads((await reads.backfill(ASKING, room_id, [event_id], 1))[0])


async def _missing(reads: ServerReads, room_id: RoomID, event_id: EventID, after_id: EventID) -> Any:
    pdus = await reads.missing_events(ASKING, room_id, latest=[after_id], earliest=[], limit=20, min_depth=0)
    return next(each for each in map(json.loads, pdus) if each["type"] == "m.room.message")


async def _event_at(reads: ServerReads, room_id: RoomID, event_id: EventID, after_id: EventID) -> Any:
    return await reads.event_at(ASKING, room_id, START_MS, backwards=False)


ENDPOINTS: Final[Mapping[str, Ask]] = {
    "event": _event,
    "state": _state,
    "state_ids": _state_ids,
    "event_auth": _event_auth,
    "backfill": _backfill,
    "missing_events": _missing,
    "event_at": _event_at,
}


def _read(answer: JsonFile) -> Any:
    raw = answer.file.read()
    assert answer.length == len(raw)
    return json.loads(raw)


def _reads(server: RoomServer) -> ServerReads:
    return ServerReads(server.store, ServerGuard(server.store, server.door, SERVER))


# -- who asks: the situations ----------------------------------------------------------------------------------------


def _always(room: Room) -> None:
    room.elsewhere.join(BOB)
    room.say()


def _joined_afterwards(room: Room) -> None:
    room.say()
    room.elsewhere.join(BOB)


def _invited_then_joined(room: Room) -> None:
    room.elsewhere.member(ALICE, BOB, "invite")
    room.say()
    room.elsewhere.join(BOB)


def _came_back(room: Room) -> None:
    room.elsewhere.join(BOB)
    room.elsewhere.member(BOB, BOB, "leave")
    room.say()
    room.elsewhere.join(BOB)


def _other_user_was_there(room: Room) -> None:
    other = UserID("@bea:b.example")
    room.elsewhere.join(other)
    room.say()
    room.elsewhere.member(other, other, "leave")
    room.elsewhere.join(BOB)


def _never(room: Room) -> None:
    room.say()


def _invited(room: Room) -> None:
    room.elsewhere.member(ALICE, BOB, "invite")
    room.say()


def _left(room: Room) -> None:
    _always(room)
    room.elsewhere.member(BOB, BOB, "leave")


def _banned(room: Room) -> None:
    _always(room)
    room.elsewhere.member(ALICE, BOB, "ban")


def _denied(room: Room) -> None:
    _always(room)
    room.elsewhere.add("m.room.server_acl", ALICE, {"allow": ["*"], "deny": [ASKING]}, "")


def _left_by_us(room: Room) -> None:
    _always(room)
    room.elsewhere.member(ZOE, ZOE, "leave")


ADMITTED: Final[Mapping[str, tuple[Callable[[Room], None], frozenset[str]]]] = {
    "always there": (_always, ALL),
    "joined afterwards": (_joined_afterwards, FOR_MEMBERS),
    "invited, then joined": (_invited_then_joined, FOR_MEMBERS | {"invited"}),
    "came back": (_came_back, FOR_MEMBERS),
    "another user was there": (_other_user_was_there, ALL),
}
REFUSED: Final[Mapping[str, Callable[[Room], None]]] = {
    "never there": _never,
    "invited only": _invited,
    "left": _left,
    "banned": _banned,
    "kept out by the ACL": _denied,
    "this server left": _left_by_us,
}


def _is_whole(endpoint: str, answer: Any) -> bool:
    """Tell whether what was answered holds what a redaction takes away."""
    if endpoint == "state":
        return any("org.example.kept" in each["content"] for each in answer["pdus"])
    if endpoint == "event_auth":
        return any("org.example.kept" in each["content"] for each in answer["auth_chain"])
    return "body" in answer["content"]


@pytest.mark.in_turns
@pytest.mark.parametrize("situation", ADMITTED)
@pytest_twisted.ensureDeferred
async def test_a_server_in_the_room_is_told_what_its_users_may_see(rooms: RoomServer, situation: str) -> None:
    arrange, whole = ADMITTED[situation]
    reads = _reads(rooms)
    expected, actual = {}, {}
    for number, visibility in enumerate(VISIBILITIES):
        room = Room(rooms, f"room{number}", visibility)
        # No part of the current state, which each server in the room knows: replaced below.
        room.elsewhere.add("m.room.member", ALICE, {"membership": "join", "org.example.kept": 1}, ALICE)
        arrange(room)
        room.elsewhere.add("m.room.member", ALICE, {"membership": "join"}, ALICE)
        await room.start()
        for endpoint in ("event", "state", "event_auth", "backfill", "missing_events"):
            answer = await ENDPOINTS[endpoint](reads, room.room_id, room.event_id, room.after_id)
            expected[visibility, endpoint] = visibility in whole
            actual[visibility, endpoint] = _is_whole(endpoint, answer)
    assert expected == actual


@pytest.mark.in_turns
@pytest.mark.parametrize("situation", REFUSED)
@pytest_twisted.ensureDeferred
async def test_any_other_server_is_told_what_it_is_of_an_unknown_room(rooms: RoomServer, situation: str) -> None:
    reads = _reads(rooms)
    unknown, nothing = RoomID("!unknown:a.example"), EventID("$unknown")
    expected, actual = {}, {}
    for number, visibility in enumerate(VISIBILITIES):
        room = Room(rooms, f"room{number}", visibility)
        REFUSED[situation](room)
        await room.start()
        for endpoint, ask in ENDPOINTS.items():
            expected[visibility, endpoint] = await _refusal(ask, reads, unknown, nothing, nothing)
            actual[visibility, endpoint] = await _refusal(ask, reads, room.room_id, room.event_id, room.after_id)
    assert expected == actual


async def _refusal(ask: Ask, reads: ServerReads, *ids: Any) -> tuple[int, bytes]:
    with pytest.raises(MatrixError) as fault:
        await ask(reads, *ids)
    return fault.value.status, json.dumps(fault.value.body()).encode()


@pytest.mark.parametrize("endpoint", ["state", "state_ids", "event_auth"])
@pytest_twisted.ensureDeferred
async def test_an_event_of_another_room_is_not_found(rooms: RoomServer, endpoint: str) -> None:
    reads = _reads(rooms)
    one, two = Room(rooms, "one"), Room(rooms, "two")
    for room in (one, two):
        _always(room)
        await room.start()
    expected = await _refusal(ENDPOINTS[endpoint], reads, one.room_id, EventID("$unknown"), one.after_id)
    assert 404 == expected[0]
    assert expected == await _refusal(ENDPOINTS[endpoint], reads, one.room_id, two.event_id, one.after_id)


@pytest_twisted.ensureDeferred
async def test_walks_do_not_lead_through_events_of_another_room(rooms: RoomServer) -> None:
    reads = _reads(rooms)
    one, two = Room(rooms, "one"), Room(rooms, "two")
    for room in (one, two):
        _always(room)
        await room.start()
    assert [] == await reads.backfill(ASKING, one.room_id, [two.event_id, EventID("$unknown")], 100)
    assert [] == await reads.missing_events(
        ASKING, one.room_id, latest=[two.after_id], earliest=[], limit=20, min_depth=0
    )


# -- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "2", "6", "11", "12"])
@pytest_twisted.ensureDeferred
async def test_the_state_is_the_one_before_the_event(rooms: RoomServer, version: str) -> None:
    room = Room(rooms, "room", version=version)
    room.elsewhere.join(BOB)
    before = room.elsewhere.add("m.room.name", ALICE, {"name": "before"}, "")
    room.event = room.elsewhere.add("m.room.name", ALICE, {"name": "event"}, "")
    first = room.elsewhere.add("m.room.topic", ALICE, {"topic": "first"}, "")
    await room.start()
    reads = _reads(rooms)
    expected = set(room.elsewhere.state_before([before.event_id]).values())
    ids = await _state_ids(reads, room.room_id, room.event_id, room.after_id)
    assert expected == set(ids["pdu_ids"])
    assert expected | {room.event_id} == set(
        (await _state_ids(reads, room.room_id, first.event_id, room.after_id))["pdu_ids"]
    ) | {before.event_id}
    whole = await _state(reads, room.room_id, room.event_id, room.after_id)
    assert [dict(room.elsewhere.by_id[each].wire) for each in ids["pdu_ids"]] == whole["pdus"]
    assert [dict(room.elsewhere.by_id[each].wire) for each in ids["auth_chain_ids"]] == whole["auth_chain"]
    assert _chain(room.elsewhere, expected) == set(ids["auth_chain_ids"])
    auth = await _event_auth(reads, room.room_id, room.event_id, room.after_id)
    chain = _chain(room.elsewhere, {room.event_id})
    assert chain == {_id_of(room.elsewhere, each) for each in auth["auth_chain"]}


def _chain(elsewhere: Elsewhere, heads: set[EventID]) -> set[EventID]:
    found: set[EventID] = set()
    waiting = [each for head in heads for each in elsewhere.by_id[head].auth_event_ids]
    while waiting:
        event_id = waiting.pop()
        if event_id not in found:
            found.add(event_id)
            waiting.extend(elsewhere.by_id[event_id].auth_event_ids)
    return found


def _id_of(elsewhere: Elsewhere, wire: Any) -> EventID:
    return next(event.event_id for event in elsewhere.events if event.wire == wire)


@pytest_twisted.ensureDeferred
async def test_the_state_before_the_create_event_is_empty(rooms: RoomServer) -> None:
    room = Room(rooms, "room")
    _always(room)
    await room.start()
    answer = await _state_ids(_reads(rooms), room.room_id, room.elsewhere.create.event_id, room.after_id)
    assert {"pdu_ids": [], "auth_chain_ids": []} == answer


@pytest_twisted.ensureDeferred
async def test_the_state_around_an_outlier_is_not_known_but_it_is_given(rooms: RoomServer) -> None:
    room = Room(rooms, "room")
    _always(room)
    await room.start()
    outlier = room.elsewhere.make(
        "m.room.name", ALICE, {"name": "far"}, "", prev=["$missing"], auth=_auth(room.elsewhere)
    )
    await room.elsewhere.give_outlier(rooms, outlier)
    reads = _reads(rooms)
    with pytest.raises(NotFound):
        await reads.state_ids(ASKING, room.room_id, outlier.event_id)
    assert "far" == json.loads(await reads.event(ASKING, outlier.event_id))["content"]["name"]
    assert [] == await reads.backfill(ASKING, room.room_id, [outlier.event_id], 10)


def _auth(elsewhere: Elsewhere) -> list[EventID]:
    state = elsewhere.states[elsewhere.last.event_id]
    keys = [("m.room.member", str(ALICE)), ("m.room.power_levels", "")]
    if not elsewhere.version.room_id_is_create_hash:
        keys.append(("m.room.create", ""))
    return [state[key] for key in keys]


@pytest_twisted.ensureDeferred
async def test_a_redacted_event_is_given_redacted(rooms: RoomServer) -> None:
    room = Room(rooms, "room")
    room.elsewhere.join(BOB)
    room.event = room.elsewhere.add("m.room.topic", ALICE, {"topic": "the secret"}, "")
    asked = room.elsewhere.redact(ALICE, room.event)
    await room.start()
    reads = _reads(rooms)
    assert {} == json.loads(await reads.event(ASKING, room.event_id))["content"]
    assert {} == json.loads((await reads.backfill(ASKING, room.room_id, [room.event_id], 1))[0])["content"]
    state = _read(await reads.state(ASKING, room.room_id, asked.event_id))
    assert [{}] == [each["content"] for each in state["pdus"] if each["type"] == "m.room.topic"]


@pytest.mark.in_turns
@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest_twisted.ensureDeferred
async def test_what_an_erased_user_said_is_for_servers_that_were_there(rooms: RoomServer, visibility: str) -> None:
    """Spec: "Account deactivation", `erase`: servers that come later are given redacted copies."""
    await _account(rooms, "zoe")
    room = Room(rooms, "room", visibility)
    room.event = room.elsewhere.say(ZOE, "the secret")
    room.elsewhere.join(BOB)
    await room.start()
    reads = _reads(rooms)
    nid = (await rooms.user("zoe")).user_nid
    before = json.loads(await reads.event(ASKING, room.event_id))["content"]
    await rooms.store.database.write(lambda tx: set_deactivated(tx, nid, is_erased=True))
    assert (visibility in FOR_MEMBERS, False) == (
        "body" in before,
        "body" in json.loads(await reads.event(ASKING, room.event_id))["content"],
    )
    assert "body" in json.loads(await reads.event("a.example", room.event_id))["content"]


async def _account(rooms: RoomServer, localpart: str) -> None:
    person = await rooms.user(localpart)
    await rooms.store.database.write(
        lambda tx: create_account(
            tx,
            user_nid=person.user_nid,
            user_id=person.user_id,
            password_hash=None,
            is_admin=False,
            is_guest=False,
            created_ts=0,
            appservice=None,
        )
    )


@pytest_twisted.ensureDeferred
async def test_many_users_of_a_server_are_looked_through_for_one_who_was_there(rooms: RoomServer) -> None:
    room = Room(rooms, "room", "joined")
    users = [UserID(f"@user{number}:b.example") for number in range(25)]
    room.elsewhere.join(users[-1])
    room.say()
    hidden = room.elsewhere.member(users[-1], users[-1], "leave")
    room.elsewhere.join(users[-1])
    for user in users[:-1]:
        room.elsewhere.join(user)
    # By another event than the one of the time: only what that one says can tell.
    room.elsewhere.add("m.room.member", users[-1], {"membership": "join", "displayname": "x"}, users[-1])
    await room.start()
    reads = _reads(rooms)
    assert "body" in json.loads(await reads.event(ASKING, room.event_id))["content"]
    assert hidden.content == json.loads(await reads.event(ASKING, hidden.event_id))["content"]


@pytest_twisted.ensureDeferred
async def test_a_rejected_event_is_given_to_nobody(rooms: RoomServer) -> None:
    room = Room(rooms, "room")
    _always(room)
    stranger = UserID("@eve:e.example")
    rejected = room.elsewhere.say(stranger, "let me in", refused=True)
    behind = room.elsewhere.say(ALICE, "behind it")
    await room.start()
    reads = _reads(rooms)
    for endpoint in ("event", "state", "state_ids", "event_auth"):
        assert 404 == (await _refusal(ENDPOINTS[endpoint], reads, room.room_id, rejected.event_id, room.after_id))[0]
    found = [json.loads(each) for each in await reads.backfill(ASKING, room.room_id, [behind.event_id], 2)]
    assert ["behind it", "the secret"] == [each["content"]["body"] for each in found]


@pytest_twisted.ensureDeferred
async def test_a_soft_failed_event_is_given_where_one_comes_to_it(rooms: RoomServer) -> None:
    """Spec: "Soft failure": "only if the requests include events referencing the soft failed events"."""
    room = Room(rooms, "room")
    _always(room)
    carol = UserID("@carol:c.example")
    base = room.elsewhere.join(carol)
    ban = room.elsewhere.member(ALICE, carol, "ban")
    soft = room.elsewhere.say(carol, "too late", prev=[base])
    await room.elsewhere.all_to(rooms)
    merge = room.elsewhere.say(ALICE, "both", prev=[ban, soft])
    await room.start()
    reads = _reads(rooms)
    assert "too late" == json.loads(await reads.event(ASKING, soft.event_id))["content"]["body"]
    texts = [
        json.loads(each)["content"].get("body")
        for each in await reads.backfill(ASKING, room.room_id, [ban.event_id], 9)
    ]
    assert "too late" not in texts
    missing = await reads.missing_events(
        ASKING, room.room_id, latest=[merge.event_id], earliest=[base.event_id], limit=20, min_depth=0
    )
    assert {"too late", None} == {json.loads(each)["content"].get("body") for each in missing}


# -- walks -----------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_backfill_goes_back_from_the_newest(rooms: RoomServer) -> None:
    room = Room(rooms, "room")
    _always(room)
    await room.start()
    reads = _reads(rooms)
    ids = [str(event.event_id) for event in room.elsewhere.events][::-1]
    found = await reads.backfill(ASKING, room.room_id, [room.after_id], 100)
    assert ids == [str(_id_of(room.elsewhere, json.loads(each))) for each in found]
    assert 3 == len(await reads.backfill(ASKING, room.room_id, [room.after_id], 3))
    assert [] == await reads.backfill(ASKING, room.room_id, [room.after_id], 0)


@pytest_twisted.ensureDeferred
async def test_backfill_gives_a_hundred_at_most_and_takes_branches_by_arrival(rooms: RoomServer) -> None:
    room = Room(rooms, "room")
    _always(room)
    left = right = room.elsewhere.last
    for number in range(60):
        # Depth is what a sender claims, and decides nothing.
        left = room.elsewhere.say(ALICE, f"left {number}", prev=[left], depth=10**6)
        right = room.elsewhere.say(ALICE, f"right {number}", prev=[right])
    await room.elsewhere.all_to(rooms)
    found = [
        json.loads(each)["content"]["body"]
        for each in await _reads(rooms).backfill(ASKING, room.room_id, [left.event_id, right.event_id], 500)
    ]
    assert 100 == len(found)
    assert ["right 59", "left 59", "right 58", "left 58"] == found[:4]


@pytest_twisted.ensureDeferred
async def test_missing_events_are_those_between(rooms: RoomServer) -> None:
    room = Room(rooms, "room")
    _always(room)
    base = room.elsewhere.last
    said = [room.elsewhere.say(ALICE, str(number)) for number in range(30)]
    await room.start()
    reads = _reads(rooms)

    async def missing(latest: Event, earliest: Event, limit: int = 20, min_depth: int = 0) -> list[str]:
        found = await reads.missing_events(
            ASKING,
            room.room_id,
            latest=[latest.event_id],
            earliest=[earliest.event_id],
            limit=limit,
            min_depth=min_depth,
        )
        return [json.loads(each)["content"]["body"] for each in found]

    assert [str(number) for number in range(5)] == await missing(said[5], base)
    assert [str(number) for number in range(9, 29)] == await missing(said[29], base, limit=1000)
    assert ["27", "28"] == await missing(said[29], base, limit=2)
    assert [] == await missing(said[29], base, limit=0)
    assert ["27", "28"] == await missing(said[29], base, min_depth=said[27].depth)
    assert [] == await missing(said[5], said[4])


# -- by time ---------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_by_time_only_what_the_server_may_see_is_found(rooms: RoomServer) -> None:
    room = Room(rooms, "room", "joined")
    room.elsewhere.say(ALICE, "hidden", ts=5_000)
    join = room.elsewhere.join(BOB, ts=6_000)
    seen = room.elsewhere.say(ALICE, "seen", ts=7_000)
    await room.elsewhere.all_to(rooms)
    reads = _reads(rooms)
    assert (join.event_id, 6_000) == await reads.event_at(ASKING, room.room_id, 4_000, backwards=False)
    assert (seen.event_id, 7_000) == await reads.event_at(ASKING, room.room_id, 8_000, backwards=True)
    with pytest.raises(NotFound):
        await reads.event_at(ASKING, room.room_id, 5_500, backwards=True)


# -- great answers ---------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_server_that_reads_no_answer_to_its_end_gets_no_more(rooms: RoomServer) -> None:
    room = Room(rooms, "room")
    _always(room)
    await room.start()
    reads = _reads(rooms)
    held = [await reads.state(ASKING, room.room_id, room.event_id) for _ in range(3)]
    with pytest.raises(LimitExceeded):
        await reads.state(ASKING, room.room_id, room.event_id)
    assert await reads.state("a.example", room.room_id, room.event_id) is not None
    held.clear()
    assert await reads.state(ASKING, room.room_id, room.event_id) is not None
