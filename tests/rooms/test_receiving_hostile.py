"""Hostile events at the write door: what is refused leaves the room as it was, and is kept where it has to be.

Each event has the format, ID and hash that its room version wants: only its place in the graph, what it cites or claims
is wrong. Afterwards local users can send, and the checker of `sennit graph --check` finds nothing.

Spec: server-server API, "Checks performed on receipt of a PDU", "Rejection", "Soft failure".
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import func, select
from twisted.internet.defer import Deferred, DeferredList

from homeserver.errors import AuthRuleBroken, BadState, MatrixError, NotFound
from homeserver.model.ids import EventID, RoomID
from homeserver.rooms.surroundings import MissingEvents
from storage.events import HIDDEN, Flag, StoredEvent
from storage.tables import rooms as tables
from tests.support.elsewhere import ALICE, BOB, CAROL, Elsewhere
from tests.support.graph_check import assert_sound
from tests.support.rooms import Person, RoomServer

ROOT_VERSIONS = ["1", "2", "3", "6", "10", "11", "12"]
NAME = ("m.room.name", "")


async def outcomes(coroutines: list[Any]) -> list[Any]:
    results = await DeferredList([Deferred.fromCoroutine(each) for each in coroutines], consumeErrors=True)
    return [value if is_well else value.value for is_well, value in results]


async def shown(server: RoomServer, room_id: RoomID) -> list[EventID]:
    """Return what clients are shown of a room, from memory and, when that is forgotten, from the database."""
    tip = await server.door.tip(room_id)
    window, _ = await server.timeline.window(room_id, tip.room_nid, upto=server.feed.watermark, limit=10_000)
    page = await server.timeline.page(tip.room_nid, start=0, limit=10_000, backwards=False)
    assert [each.event_id for each in window] == [each.event_id for each in page if not each.flags & HIDDEN]
    return [each.event_id for each in window]


async def current(server: RoomServer, room: Elsewhere, kind: str, state_key: str = "") -> EventID | None:
    found = await server.door.state_event(room.room_id, kind, state_key)
    return None if found is None else found.event_id


async def ends(server: RoomServer, room: Elsewhere) -> set[EventID]:
    return {end.event_id for end in (await server.door.tip(room.room_id)).extremities}


async def count_events(server: RoomServer) -> int:
    return int(await server.store.database.read(lambda tx: tx.scalar(select(func.count()).select_from(tables.events))))


async def local_member(server: RoomServer, room: Elsewhere, localpart: str = "lena") -> Person:
    """Have a local user join; the room elsewhere knows of it."""
    person = await server.user(localpart)
    room.note(await server.join(room.room_id, person))
    return person


async def assert_well(server: RoomServer, room: Elsewhere, person: Person | None = None) -> None:
    """Nothing is open, what is stored is right, now and after a restart, and a local user can send."""
    for _ in range(2):
        assert not server.store.positions._open
        assert not server.door._tips.in_flight and not server.door._tips._flying_ids
        assert not server.door._tips._pending
        await assert_sound(server, room.room_id)
        await shown(server, room.room_id)
        server.forget_memory()
        if person is not None:
            stored = await server.say(room.room_id, person, "still here")
            assert stored.event_id in await shown(server, room.room_id)
            room.note(stored)


async def assert_kept_apart(server: RoomServer, room: Elsewhere, stored: StoredEvent, flag: Flag) -> None:
    """The event is stored with the flag, and is neither shown nor an end of the graph nor in the room's state."""
    assert flag == stored.flags and stored.position is None
    assert stored.event_id not in await shown(server, room.room_id)
    assert stored.event_id not in await ends(server, room)
    if stored.event.state_key is not None:
        assert stored.event_id != await current(server, room, stored.event.type, stored.event.state_key)
    server.forget_memory()
    tip = await server.door.tip(room.room_id)
    again = await server.store.events.get_by_id(tip.room_nid, stored.event_id)
    assert again is not None and flag == again.flags and again.position is None


# -- two events of one ID ----------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("is_outlier", [False, True], ids=["placed", "outlier"])
@pytest_twisted.ensureDeferred
async def test_of_two_events_of_one_id_the_first_counts(rooms: RoomServer, version: str, is_outlier: bool) -> None:
    room = Elsewhere(version)
    room.join(BOB)
    await room.all_to(rooms)
    first = room.say(BOB, "first", event_id="$same:b.example")
    second = room.make(
        "m.room.message", BOB, {"body": "second"}, event_id="$same:b.example", prev=[first.prev_event_ids[0]]
    )
    if is_outlier:
        await room.give_outlier(rooms, first)
    else:
        await room.give(rooms, first)
    stored = await room.give(rooms, second)
    assert "first" == stored.event.content["body"]
    again = await room.give_outlier(rooms, second)
    assert stored.nid == again.nid and "first" == again.event.content["body"]
    rooms.forget_memory()
    again = await room.give(rooms, second)
    assert stored.nid == again.nid and "first" == again.event.content["body"]
    await assert_well(rooms, room)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest_twisted.ensureDeferred
async def test_two_events_of_one_id_that_come_at_once_are_one(rooms: RoomServer, version: str) -> None:
    room = Elsewhere(version)
    room.join(BOB)
    await room.all_to(rooms)
    before = room.last
    events = [
        room.make("m.room.message", BOB, {"body": str(number)}, event_id="$same:b.example", prev=[before])
        for number in range(5)
    ]
    found = await outcomes(
        [room.give_outlier(rooms, each) if number % 2 else room.give(rooms, each) for number, each in enumerate(events)]
    )
    assert {found[0].nid} == {each.nid for each in found}
    assert {"0"} == {each.event.content["body"] for each in found}
    room.by_id[events[0].event_id] = events[0]
    await assert_well(rooms, room)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("is_cold", [False, True], ids=["warm", "cold"])
@pytest_twisted.ensureDeferred
async def test_the_id_of_an_event_of_another_room_is_refused(rooms: RoomServer, version: str, is_cold: bool) -> None:
    """Or else an event that cannot be stored would take with it what local users send meanwhile."""
    room, other = Elsewhere(version, "one"), Elsewhere(version, "two")
    for each in (room, other):
        each.join(BOB)
        await each.all_to(rooms)
    lena = await local_member(rooms, room)
    await other.give(rooms, other.say(BOB, "mine", event_id="$same:b.example"))
    if is_cold:
        rooms.forget_memory()
    thief = room.make("m.room.message", BOB, {"body": "theirs"}, event_id="$same:b.example")
    count = await count_events(rooms)
    found = await outcomes(
        [
            room.give(rooms, thief),
            rooms.say(room.room_id, lena, "unharmed"),
            room.give_outlier(rooms, thief),
            rooms.say(room.room_id, lena, "unharmed"),
        ]
    )
    assert isinstance(found[0], MatrixError) and isinstance(found[2], MatrixError)
    assert isinstance(found[1], StoredEvent) and isinstance(found[3], StoredEvent)
    assert count + 2 == await count_events(rooms)
    mine = await other.give(
        rooms, room.make("m.room.message", BOB, {"body": "theirs"}, event_id="$same:b.example", room_id=other.room_id)
    )
    assert "mine" == mine.event.content["body"]
    await assert_well(rooms, other)
    room.note(found[1])
    room.note(found[3])
    await assert_well(rooms, room, lena)


@pytest_twisted.ensureDeferred
async def test_a_room_whose_create_event_has_a_taken_id_does_not_begin(rooms: RoomServer) -> None:
    room, other = Elsewhere("1", "one"), Elsewhere("1", "two")
    await room.all_to(rooms)
    create = other.make(
        "m.room.create", ALICE, other.create.content, "", prev=[], auth=[], event_id=room.create.event_id
    )
    with pytest.raises(MatrixError):
        await rooms.door.receive_create(other.version, other.checked(create))
    with pytest.raises(NotFound):
        await rooms.door.tip(other.room_id)
    await assert_well(rooms, room)


@pytest_twisted.ensureDeferred
async def test_an_event_that_comes_many_times_at_once_is_stored_once(rooms: RoomServer) -> None:
    room = Elsewhere("12")
    room.join(BOB)
    await room.all_to(rooms)
    events = [room.say(BOB, str(number)) for number in range(4)]
    found = await outcomes([room.give(rooms, each) for each in (*events, *events, *reversed(events))])
    assert 4 == len({each.nid for each in found})
    await assert_well(rooms, room)


@pytest_twisted.ensureDeferred
async def test_nobody_is_told_that_a_duplicate_is_stored_when_it_could_not_be(rooms: RoomServer) -> None:
    from tests.storage.core import Faults

    room = Elsewhere("12")
    room.join(BOB)
    await room.all_to(rooms)
    event = room.say(BOB)
    Faults(rooms.store.database).refuse_commits(1)
    found = await outcomes([room.give(rooms, event), room.give(rooms, event)])
    assert isinstance(found[0], Exception)
    stored = found[1]
    if isinstance(stored, StoredEvent):
        tip = await rooms.door.tip(room.room_id)
        rooms.forget_memory()
        assert await rooms.store.events.get_by_id(tip.room_nid, event.event_id) is not None
    await room.give(rooms, event)
    await assert_well(rooms, room)


# -- auth events -------------------------------------------------------------------------------------------------------


async def prepared_room(server: RoomServer, version: str) -> tuple[Elsewhere, Person]:
    room = Elsewhere(version)
    room.join(BOB)
    await room.all_to(server)
    return room, await local_member(server, room)


AUTH_CASES = ["duplicated", "message", "none", "too many of another kind", "member of another", "create", "itself"]


def bad_auth(room: Elsewhere, case: str) -> list[Any]:
    good = list(room.make("m.room.message", BOB).auth_event_ids)
    bob = room.states[room.last.event_id]["m.room.member", BOB]
    others = {
        "duplicated": [*good, good[-1]],
        "message": [*good, next(each for each in room.events if each.type == "m.room.message")],
        "none": [],
        "too many of another kind": [*good, room.states[room.last.event_id]["m.room.history_visibility", ""]],
        "member of another": [each for each in good if each != bob]
        + [room.states[room.last.event_id]["m.room.member", ALICE]],
        "create": [*good, room.create],
        "itself": [*good],
    }
    return others[case]


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ROOT_VERSIONS)
@pytest_twisted.ensureDeferred
async def test_an_event_that_cites_what_it_must_not_is_kept_apart(rooms: RoomServer, version: str) -> None:
    room, lena = await prepared_room(rooms, version)
    await room.give(rooms, room.say(BOB))
    for case in AUTH_CASES[:-1]:
        if case == "create" and not room.version.create_is_implicit_auth_event:
            continue
        event = room.make("m.room.name", BOB, {"name": case}, "", auth=bad_auth(room, case))
        await assert_kept_apart(rooms, room, await room.give(rooms, event), Flag.REJECTED)
        outlier = room.make("m.room.topic", BOB, {"topic": case}, "", auth=bad_auth(room, case))
        stored = await room.give_outlier(rooms, outlier)
        await assert_kept_apart(rooms, room, stored, Flag.REJECTED | Flag.OUTLIER)
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest_twisted.ensureDeferred
async def test_an_event_that_names_itself_is_never_complete(rooms: RoomServer, version: str) -> None:
    room, lena = await prepared_room(rooms, version)
    for options in ({"auth": ["$self:b.example"]}, {"prev": ["$self:b.example"]}):
        event = room.make("m.room.message", BOB, {}, event_id="$self:b.example", **options)
        with pytest.raises(MissingEvents):
            await room.give(rooms, event)
        if "auth" in options:
            with pytest.raises(MissingEvents):
                await room.give_outlier(rooms, event)
    # As an outlier it is there, and still it has nothing before it.
    assert (await room.give_outlier(rooms, event)).is_outlier
    with pytest.raises(MissingEvents):
        await room.give(rooms, event)
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("version", ["1", "11", "12"])
@pytest_twisted.ensureDeferred
async def test_events_of_another_room_are_not_found(rooms: RoomServer, version: str) -> None:
    room, lena = await prepared_room(rooms, version)
    other = Elsewhere(version, "other", levels={"invite": 50})
    other.join(BOB)
    await other.all_to(rooms)
    count = await count_events(rooms)
    good = list(room.make("m.room.message", BOB).auth_event_ids)
    for options in ({"auth": [*good, other.power]}, {"prev": [other.last]}, {"prev": [room.last, other.last]}):
        event = room.make("m.room.message", BOB, {}, **options)
        with pytest.raises(MissingEvents):
            await room.give(rooms, event)
    with pytest.raises(MissingEvents):
        await room.give_outlier(rooms, room.make("m.room.message", BOB, {}, auth=[other.power]))
    with pytest.raises(MatrixError):
        await rooms.door.receive(room.room_id, room.checked(other.last))
    with pytest.raises(NotFound):
        await rooms.door.receive(
            RoomID("!none:a.example"), room.checked(room.make("m.room.message", BOB, room_id="!none:a.example"))
        )
    assert count == await count_events(rooms)
    await assert_well(rooms, room, lena)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ROOT_VERSIONS)
@pytest_twisted.ensureDeferred
async def test_what_cites_a_rejected_event_is_rejected(rooms: RoomServer, version: str) -> None:
    """CVE-2022-39374: an event that was rejected came back into the state by those that cited it."""
    room, lena = await prepared_room(rooms, version)
    base = room.last
    # Bob makes himself powerful, which he may not.
    users = {} if room.version.privileged_creators else {str(ALICE): 100}
    coup = room.add("m.room.power_levels", BOB, {"users": {**users, str(BOB): 100}}, "", refused=True)
    await assert_kept_apart(rooms, room, await room.give(rooms, coup), Flag.REJECTED)
    state = room.state_before([base.event_id])
    auth = [coup, state["m.room.member", BOB]]
    if not room.version.create_is_implicit_auth_event:
        auth.append(room.create)
    for prev in ([base], [coup], [coup, base]):
        name = room.make("m.room.name", BOB, {"name": "mine"}, "", prev=prev, auth=auth)
        await assert_kept_apart(rooms, room, await room.give(rooms, name), Flag.REJECTED)
        topic = room.make("m.room.topic", BOB, {"topic": "mine"}, "", prev=prev, auth=auth)
        await assert_kept_apart(rooms, room, await room.give_outlier(rooms, topic), Flag.REJECTED | Flag.OUTLIER)
        again = await room.give(rooms, topic)
        await assert_kept_apart(rooms, room, again, Flag.REJECTED)
    # Who builds on it without citing it has the state before it.
    later = room.say(BOB, "on top", prev=[coup])
    stored = await room.give(rooms, later)
    assert 0 == stored.flags
    assert {later.event_id} == await ends(rooms, room)
    assert state["m.room.power_levels", ""] == await current(rooms, room, "m.room.power_levels")
    await assert_well(rooms, room, lena)


# -- create events -----------------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ROOT_VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_room_has_one_create_event(rooms: RoomServer, version: str) -> None:
    room, lena = await prepared_room(rooms, version)
    content = {**room.create.content, "again": True}
    first, last = room.events[0], room.last
    kept = []
    if not room.version.room_id_is_create_hash:
        for prev, sender in (([], ALICE), ([first], ALICE), ([last], ALICE), ([last], BOB), ([], BOB)):
            event = room.add("m.room.create", sender, content, "", prev=prev, auth=[], refused=True)
            stored = await room.give(rooms, event)
            assert Flag.REJECTED == stored.flags
            kept.append(event)
        outlier = room.make("m.room.create", ALICE, {**content, "outlier": 1}, "", prev=[], auth=[])
        assert Flag.REJECTED | Flag.OUTLIER == (await room.give_outlier(rooms, outlier)).flags
    with pytest.raises(BadState):
        await rooms.door.receive_create(room.version, room.checked(room.create))
    rooms.forget_memory()
    # The state before what builds on them is that before them: nothing where they name nothing.
    for event in kept:
        stored = await room.give(
            rooms,
            room.make(
                "m.room.message",
                BOB,
                {},
                prev=[event],
                auth=room.make("m.room.message", BOB, prev=[last]).auth_event_ids,
            ),
        )
        assert event.prev_event_ids != () or Flag.REJECTED == stored.flags
        both = await room.give(rooms, room.make("m.room.topic", BOB, {"topic": "both"}, "", prev=[event, last]))
        assert Flag.REJECTED & both.flags
    assert room.create.event_id == await current(rooms, room, "m.room.create")
    await assert_well(rooms, room)
    assert (await rooms.say(room.room_id, lena)).position is not None


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ROOT_VERSIONS)
@pytest_twisted.ensureDeferred
async def test_an_event_that_comes_after_nothing_is_rejected(rooms: RoomServer, version: str) -> None:
    room, lena = await prepared_room(rooms, version)
    state = room.state_before([room.last.event_id])
    alice = state["m.room.member", ALICE]
    cited = [alice, state["m.room.power_levels", ""]]
    if not room.version.create_is_implicit_auth_event:
        cited.append(room.create)
    roots = [
        room.make("m.room.message", ALICE, {"body": "root"}, prev=[], auth=cited),
        room.make("m.room.name", ALICE, {"name": "root"}, "", prev=[], auth=cited),
        room.make(
            "m.room.member",
            ALICE,
            {"membership": "join"},
            ALICE,
            prev=[],
            auth=[room.create] if room.create in cited else [],
        ),
        room.make("m.room.aliases", ALICE, {"aliases": []}, "a.example", prev=[], auth=cited[-1:]),
    ]
    for event in roots:
        stored = await room.give(rooms, event)
        assert Flag.REJECTED == stored.flags, event.type
        rooms.forget_memory()
        follower = await room.give(rooms, room.make("m.room.message", ALICE, {}, prev=[event], auth=cited))
        assert Flag.REJECTED == follower.flags
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("version", ["1", "11"])
@pytest_twisted.ensureDeferred
async def test_a_room_cannot_begin_with_a_create_event_that_builds_on_something(
    rooms: RoomServer, version: str
) -> None:
    room = Elsewhere(version)
    bad = room.make("m.room.create", ALICE, room.create.content, "", prev=[room.last], auth=[])
    stranger = room.make("m.room.create", BOB, room.create.content, "", prev=[], auth=[])
    message = room.make("m.room.message", ALICE, {}, prev=[], auth=[])
    for event in (bad, stranger, message):
        with pytest.raises(AuthRuleBroken):
            await rooms.door.receive_create(room.version, room.checked(event))
    with pytest.raises(NotFound):
        await rooms.door.tip(room.room_id)
    await room.all_to(rooms)
    await assert_well(rooms, room)


# -- prev events -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 20])
@pytest_twisted.ensureDeferred
async def test_unknown_prev_events_are_named_and_nothing_is_stored(rooms: RoomServer, count: int) -> None:
    room, lena = await prepared_room(rooms, "12")
    stored = await count_events(rooms)
    unknown = [EventID(f"${number:043}") for number in range(count)]
    event = room.make("m.room.message", BOB, {}, prev=unknown, auth=room.make("m.room.message", BOB).auth_event_ids)
    with pytest.raises(MissingEvents) as missing:
        await room.give(rooms, event)
    assert frozenset(unknown) == missing.value.prev and not missing.value.auth
    partly = room.make("m.room.message", BOB, {}, prev=[room.last, *unknown[2:], EventID("$" + "x" * 43)])
    with pytest.raises(MissingEvents) as missing:
        await room.give(rooms, partly)
    assert frozenset([*unknown[2:], "$" + "x" * 43]) == missing.value.prev
    assert stored == await count_events(rooms)
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("version", ["1", "12"])
@pytest_twisted.ensureDeferred
async def test_a_prev_event_that_is_named_twice_counts_once(rooms: RoomServer, version: str) -> None:
    room, lena = await prepared_room(rooms, version)
    stored = await room.give(rooms, room.add("m.room.message", BOB, {}, prev=[room.last] * 20))
    assert 0 == stored.flags
    await assert_well(rooms, room, lena)


# -- outliers ----------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_an_outlier_is_no_place_to_build_on(rooms: RoomServer) -> None:
    room, lena = await prepared_room(rooms, "12")
    gap = room.say(BOB, "gap")
    outlier, later = room.add("m.room.name", ALICE, {"name": "outlier"}, ""), room.say(BOB, "later")
    await assert_kept_apart(rooms, room, await room.give_outlier(rooms, outlier), Flag.OUTLIER)
    for event, missing in ((later, outlier), (outlier, gap)):
        with pytest.raises(MissingEvents) as found:
            await room.give(rooms, event)
        assert frozenset([missing.event_id]) == found.value.prev
    for event in (gap, outlier, later):
        assert 0 == (await room.give(rooms, event)).flags
    assert outlier.event_id == await current(rooms, room, *NAME)
    assert [each.event_id for each in (gap, outlier, later)] == (await shown(rooms, room.room_id))[-3:]
    await assert_well(rooms, room, lena)


@pytest_twisted.ensureDeferred
async def test_a_rejected_outlier_stays_rejected_at_its_place(rooms: RoomServer) -> None:
    room, lena = await prepared_room(rooms, "12")
    cited = room.make("m.room.message", BOB).auth_event_ids
    bad = room.add("m.room.name", BOB, {"name": "bad"}, "", auth=cited, refused=True)
    await assert_kept_apart(rooms, room, await room.give_outlier(rooms, bad), Flag.OUTLIER | Flag.REJECTED)
    await assert_kept_apart(rooms, room, await room.give(rooms, bad), Flag.REJECTED)
    assert 0 == (await room.give(rooms, room.say(BOB, prev=[bad]))).flags
    await assert_well(rooms, room, lena)


@pytest_twisted.ensureDeferred
async def test_an_outlier_that_its_place_does_not_allow_is_rejected_there(rooms: RoomServer) -> None:
    room, lena = await prepared_room(rooms, "12")
    cited = room.make("m.room.message", BOB).auth_event_ids
    ban = room.member(ALICE, BOB, "ban")
    late = room.add("m.room.message", BOB, {}, prev=[ban], auth=cited, refused=True)
    assert Flag.OUTLIER == (await room.give_outlier(rooms, late)).flags
    await room.give(rooms, ban)
    await assert_kept_apart(rooms, room, await room.give(rooms, late), Flag.REJECTED)
    await assert_well(rooms, room, lena)


# -- soft failure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "6", "12"])
@pytest_twisted.ensureDeferred
async def test_what_the_current_state_refuses_is_soft_failed(rooms: RoomServer, version: str) -> None:
    room, lena = await prepared_room(rooms, version)
    base = room.last
    ban = room.member(ALICE, BOB, "ban")
    await room.give(rooms, ban)
    evasion = room.say(BOB, "evasion", prev=[base])
    stored = await room.give(rooms, evasion)
    await assert_kept_apart(rooms, room, stored, Flag.SOFT_FAILED)
    assert {ban.event_id} == await ends(rooms, room)
    # More of it, on top of what was soft-failed, in state events too.
    name = room.add("m.room.member", BOB, {"membership": "join", "displayname": "evader"}, BOB, prev=[evasion])
    await assert_kept_apart(rooms, room, await room.give(rooms, name), Flag.SOFT_FAILED)
    assert {ban.event_id} == await ends(rooms, room)
    # Carol's server has not seen the ban: the end of the graph is hers, and what is before it is none.
    join = room.join(CAROL, prev=[name])
    assert 0 == (await room.give(rooms, join)).flags
    assert {ban.event_id, join.event_id} == await ends(rooms, room)
    assert ban.event_id == await current(rooms, room, "m.room.member", BOB)
    reply = room.say(CAROL, "reply", prev=[join, ban])
    assert 0 == (await room.give(rooms, reply)).flags
    assert {reply.event_id} == await ends(rooms, room)
    assert ban.event_id == await current(rooms, room, "m.room.member", BOB)
    await assert_well(rooms, room, lena)


@pytest_twisted.ensureDeferred
async def test_what_builds_on_the_soft_failed_replaces_the_end_before_it(rooms: RoomServer) -> None:
    room, lena = await prepared_room(rooms, "12")
    base = room.last
    end = room.say(ALICE, "the end of a branch", prev=[base])
    ban = room.member(ALICE, BOB, "ban", prev=[base])
    evasion = room.say(BOB, "evasion", prev=[end])
    again = room.say(BOB, "again", prev=[evasion])
    for event in (end, ban, evasion, again):
        await room.give(rooms, event)
    assert {end.event_id, ban.event_id} == await ends(rooms, room)
    later = room.say(ALICE, "on top of it", prev=[again])
    assert 0 == (await room.give(rooms, later)).flags
    assert {later.event_id, ban.event_id} == await ends(rooms, room)
    await assert_well(rooms, room, lena)


# -- claims about time -------------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "5", "6", "12"])
@pytest_twisted.ensureDeferred
async def test_times_and_depths_change_nothing(rooms: RoomServer, version: str) -> None:
    room, lena = await prepared_room(rooms, version)
    most = room.version.max_integer
    last = room.last
    for depth, ts in ((0, 0), (most, 253_402_300_799_000), (1, most), (most, 0)):
        event = room.say(BOB, f"{depth} {ts}", depth=depth, ts=ts)
        assert 0 == (await room.give(rooms, event)).flags
        assert {event.event_id} == await ends(rooms, room)
        assert event.event_id == (await shown(rooms, room.room_id))[-1]
    # A fork from before, deep or of old, is no way around what is there.
    ban = room.member(ALICE, BOB, "ban")
    await room.give(rooms, ban)
    for depth, ts in ((0, 0), (most, most)):
        name = room.add("m.room.member", BOB, {"membership": "join"}, BOB, prev=[last], depth=depth, ts=ts)
        assert Flag.SOFT_FAILED == (await room.give(rooms, name)).flags
    assert ban.event_id == await current(rooms, room, "m.room.member", BOB)
    stored = await rooms.say(room.room_id, lena, "deep down")
    assert most >= stored.event.depth
    room.note(stored)
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("version", ["1", "9", "12"])
@pytest_twisted.ensureDeferred
async def test_odd_state_keys_of_member_events_do_no_harm(rooms: RoomServer, version: str) -> None:
    room, lena = await prepared_room(rooms, version)
    for target in (
        "",
        "nobody",
        "@",
        "@:",
        ":b.example",
        "@Bob:B.EXAMPLE",
        "@bob:b.example ",
        "@😀:b.example",
        "@" + "x" * 254,
    ):
        for membership in ("ban", "leave", "invite", "join", "knock", "nonsense"):
            event = room.make("m.room.member", ALICE, {"membership": membership}, target)
            stored = await room.give(rooms, event)
            if not stored.flags:
                room.events.append(event)
                room.by_id[event.event_id] = event
                before = room.state_before(event.prev_event_ids)
                room.states[event.event_id] = {**before, ("m.room.member", target): event.event_id}
    await assert_well(rooms, room, lena)
